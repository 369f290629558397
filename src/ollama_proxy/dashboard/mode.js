// The six modes, which is chosen, which is in force and why; and the choice of another.

import { byId, clock, el, mark, say } from "./dom.js";
import { call, faultOf } from "./wire.js";

export class Modes {
  constructor() {
    this.choices = new Map();
    this.mode = null;
  }

  show(state, fresh) {
    if (!fresh.has("mode") || !state.mode) return;
    this.mode = state.mode;
    if (!this.choices.size) this.build();
    this.sync();
  }

  build() {
    const box = byId("mode").querySelector(".modes");
    for (const { name, title, description } of this.mode.modes) {
      const input = el("input", {
        type: "radio", name: "mode", value: name, "aria-describedby": "mode-why",
        on: { change: () => this.choose(name) },
      });
      const choice = el("label", { title: description }, input, el("span", {}, title));
      this.choices.set(name, { input, choice });
      box.append(choice);
    }
  }

  sync() {
    const { mode, effective_mode, reason, since, modes } = this.mode;
    const named = name => modes.find(each => each.name === name);
    for (const [name, { input, choice }] of this.choices) {
      input.checked = name === mode;
      mark(choice, "effective", name === effective_mode && name !== mode);
    }
    const description = named(mode)?.description ?? "";
    const other = effective_mode === mode ? ""
      : ` Now: ${named(effective_mode)?.title ?? effective_mode}, ${reason}.`;
    const at = clock(Date.parse(since) / 1000);
    say(byId("mode-why"), `${description}${other} Since ${at}.`);
  }

  async choose(name) {
    const fault = byId("mode-fault");
    say(fault, "");
    mark(byId("mode"), "busy", true);
    try {
      const { status, told } = await call("POST", "/efficiency", { body: { mode: name } });
      if (status === 200) this.mode = { ...this.mode, ...told };
      else if (status === 403) say(fault, `${faultOf(told)} Another key may.`);
      else if (status !== 401) say(fault, faultOf(told) || `The router answered ${status}.`);
    } catch {
      say(fault, "The router could not be reached: the mode is as it was.");
    }
    mark(byId("mode"), "busy", false);
    this.sync();
  }
}
