// Where a request would go, and what was weighed of every backend.

import { byId, duration, el, hue, watts } from "./dom.js";
import { call, faultOf } from "./wire.js";

const TERMS = {
  latency: "its time", power: "its watts", load: "its line", loaded: "model in memory",
  prefix: "known beginning", failing: "recent failures", heat: "heat", wake: "waking it",
};
const ROUND = 0.005; // what is less is shown as nothing

const signed = value => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

export class Explain {
  constructor() {
    this.form = byId("explain");
    this.state = null;
    this.form.addEventListener("submit", event => {
      event.preventDefault();
      this.ask();
    });
  }

  show(state, fresh) {
    this.state = state;
    if (!fresh.has("backends") && !fresh.has("order")) return;
    const all = state.order.map(id => state.backends[id]);
    const models = [...new Set(all.flatMap(each => each.models ?? []))].sort().slice(0, 200);
    this.offer(byId("models"), models.map(name => [name, name]), []);
    const hardware = [...new Set(all.map(each => each.hardware))];
    this.offer(this.form.elements.target, [...all.map(each => [each.id, each.name]), ...hardware.map(name => [name, `any ${name}`])], [["", "any"]]);
    const { model } = this.form.elements;
    if (!model.value && models.length && document.activeElement !== model) model.value = models[0];
  }

  offer(list, choices, before) {
    const offered = JSON.stringify(choices);
    if (list.dataset.offered === offered) return;
    list.dataset.offered = offered;
    const chosen = list.value;
    list.replaceChildren(...[...before, ...choices].map(([value, text]) => el("option", { value }, text)));
    if (chosen !== undefined) list.value = chosen;
  }

  async ask() {
    const { model, prompt, priority, target, deadline, watts: most, critical, efficient, stream } = this.form.elements;
    const headers = {};
    if (priority.value) headers["X-Priority"] = priority.value;
    if (target.value) headers["X-Target-Backend"] = target.value;
    if (deadline.value) headers["X-Max-Latency-Ms"] = deadline.value;
    if (most.value) headers["X-Max-Power-Watts"] = most.value;
    if (critical.checked) headers["X-Latency-Critical"] = "true";
    if (efficient.checked) headers["X-Power-Efficient"] = "true";
    const body = {
      model: model.value, stream: stream.checked,
      messages: [{ role: "user", content: prompt.value || "Hello" }],
    };
    const box = byId("explained");
    try {
      const { status, told } = await call("POST", "/v1/route", { body, headers });
      if (status === 401) return;
      box.replaceChildren(...(status === 200 ? this.decided(told) : this.refused(status, told)));
    } catch {
      box.replaceChildren(el("p", { class: "fault" }, "The router could not be reached."));
    }
  }

  name(id) {
    return this.state?.backends[id]?.name ?? id;
  }

  decided({ backend, reason, alternatives, candidates }) {
    const others = alternatives.filter(id => id !== backend).map(id => this.name(id));
    const then = others.length ? ` Else: ${others.join(", then ")}.` : "";
    return [
      el("p", { class: "verdict" }, "To ", el("strong", {}, this.name(backend)), ", because of ", el("strong", {}, reason), `.${then}`),
      ...this.weighed(candidates, backend),
    ];
  }

  refused(status, told) {
    return [
      el("p", { class: "fault" }, `Refused (${status}): ${faultOf(told)}`),
      ...(told.candidates?.length ? this.weighed(told.candidates, null) : []),
    ];
  }

  weighed(candidates, chosen) {
    const names = Object.keys(candidates.find(each => each.terms)?.terms ?? {});
    const most = Math.max(1, ...candidates.flatMap(each => Object.values(each.terms ?? {}).map(Math.abs)));
    const heads = ["Backend", "Score", ...names.map(name => TERMS[name] ?? name), "Expected", "Power"];
    const row = each => {
      const name = el("th", { scope: "row" }, el("span", { class: "named" }, this.name(each.backend)));
      const place = { class: hue(this.state?.order.indexOf(each.backend) ?? 0), "data-chosen": each.backend === chosen, "data-barred": !each.eligible };
      if (!each.eligible) return el("tr", place, name, el("td", { colspan: names.length + 3 }, each.why_not));
      return el("tr", place, name, el("td", { class: "n" }, el("b", {}, signed(each.score))),
        ...names.map(term => this.term(each.terms[term], most)),
        el("td", { class: "n" }, duration(each.predicted_ttft_ms)), el("td", { class: "n" }, watts(each.predicted_watts)));
    };
    return [el("p", { class: "soft" }, "One point is a factor of two in the product of time and power. The terms add up to the score; the most wins."),
      el("div", { class: "scroll", role: "region", "aria-label": "What was weighed", tabindex: "0" },
      el("table", { class: "weighed" },
        el("thead", {}, el("tr", {}, ...heads.map((head, index) => el("th", { scope: "col", class: index ? "n" : null }, head)))),
        el("tbody", {}, ...candidates.map(row))))];
  }

  term(value, most) {
    if (Math.abs(value) < ROUND) return el("td", { class: "n zero" }, "0");
    const bar = el("i", { class: value < 0 ? "less" : "more", "aria-hidden": "true" });
    bar.style.width = `${(Math.abs(value) / most) * 50}%`;
    return el("td", { class: "n" }, signed(value), el("span", { class: "scale" }, bar));
  }
}
