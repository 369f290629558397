// A card for each backend, as it stands.

import { byId, celsius, duration, el, figure, hue, mark, many, say, UNKNOWN, watts } from "./dom.js";

const PIPS_MAX = 16;
const PRIORITIES = { critical: "critical", high: "high", normal: "normal", best_effort: "best effort" };
const HEAT_MOODS = { light: "warn", moderate: "warn", severe: "bad", critical: "bad" };
const HARDWARE = { npu: "NPU", igpu: "integrated GPU", nvidia: "NVIDIA GPU", amd: "AMD GPU", cpu: "CPU", cloud: "cloud" };

class Card {
  constructor() {
    this.texts = {};
    const text = (name, tag = "span", cls = "") => (this.texts[name] = el(tag, { class: cls || null }));
    const stat = (name, label) => el("div", {}, el("dt", {}, label), el("dd", {}, text(name, "span", "value"), text(`${name}_note`, "span", "soft")));
    this.pips = el("span", { class: "pips", "aria-hidden": "true" });
    this.cells = {};
    const queue = Object.entries(PRIORITIES).map(([name, label]) => {
      const cell = el("dd", {}, "0");
      this.cells[name] = el("div", { class: "cell" }, el("dt", {}, label), cell);
      return this.cells[name];
    });
    this.element = el("article", { class: "card" },
      el("header", {},
        el("span", { class: "dot", "aria-hidden": "true" }),
        el("div", {}, text("name", "h3"), text("what", "p", "soft")),
        text("health", "span", "chip")),
      el("dl", { class: "big" }, stat("speed", "Tokens a second"), stat("first", "First token")),
      el("div", { class: "flight" }, text("flight"), this.pips),
      el("dl", { class: "queue", "aria-label": "Waiting, by priority" }, ...queue),
      el("dl", { class: "small" }, stat("watts", "Power"), stat("heat", "Temperature"), stat("joules", "A token")),
      text("models", "p", "soft models"),
      text("error", "p", "fault"));
  }

  show(backend, place) {
    const set = (name, value) => say(this.texts[name], value);
    const { ttft_ms: first, tokens_per_s: speed } = backend.latency;
    const state = !backend.enabled ? "disabled" : !backend.healthy ? "unhealthy" : backend.asleep ? "asleep" : "healthy";
    this.element.className = `card ${hue(place)}`;
    mark(this.element, "health", state);
    set("name", backend.name);
    set("what", [HARDWARE[backend.hardware] ?? backend.hardware, backend.name === backend.id ? backend.type : backend.id].join(" · "));
    set("health", state);
    set("speed", figure(speed.value));
    set("speed_note", speed.source ?? "not yet learned");
    set("first", duration(first.value));
    set("first_note", first.source);
    this.showFlight(backend);
    for (const [name, cell] of Object.entries(this.cells)) {
      const count = backend.queued[name] ?? 0;
      say(cell.lastChild, String(count));
      mark(cell, "some", count > 0);
    }
    set("watts", watts(backend.power_watts.value));
    set("watts_note", backend.power_watts.source ?? "");
    set("heat", celsius(backend.temperature_c));
    set("heat_note", [backend.thermal_state === "unknown" ? "no sensor" : backend.thermal_state, backend.throttled ? "throttled" : ""].filter(Boolean).join(", "));
    mark(this.texts.heat, "mood", HEAT_MOODS[backend.thermal_state] ?? (backend.throttled ? "bad" : null));
    set("joules", backend.energy_j_per_token === null ? UNKNOWN : `${figure(backend.energy_j_per_token)}\u00a0J`);
    set("joules_note", backend.energy_j_per_token === null ? "not yet" : "learned");
    this.showModels(backend);
    set("error", backend.enabled && !backend.healthy && backend.last_error ? backend.last_error : "");
  }

  showFlight({ in_flight: busy, slots, requests_total: served, errors_total: errors }) {
    const shown = Math.min(slots, PIPS_MAX);
    if (this.pips.childElementCount !== shown) {
      this.pips.replaceChildren(...Array.from({ length: shown }, () => el("i")));
    }
    // With more slots than pips, a pip stands for several.
    const lit = Math.ceil((busy / slots) * shown);
    [...this.pips.children].forEach((pip, index) => mark(pip, "on", index < lit));
    const faults = errors ? `, ${errors.toLocaleString("en")} failed` : "";
    say(this.texts.flight, `${busy} of ${slots} in flight · ${served.toLocaleString("en")} so far${faults}`);
  }

  showModels({ models, loaded_models: loaded }) {
    const count = models === null ? "models not known" : many(models.length, "model");
    const names = loaded?.length ? `, in memory: ${loaded.join(", ")}` : "";
    say(this.texts.models, count + names);
    this.texts.models.title = models?.slice(0, 100).join("\n") ?? "";
  }
}

export class Backends {
  constructor() {
    this.cards = new Map();
  }

  show(state, fresh) {
    if (!fresh.has("backends") && !fresh.has("order")) return;
    for (const [id, card] of this.cards) {
      if (!state.order.includes(id)) {
        card.element.remove();
        this.cards.delete(id);
      }
    }
    state.order.forEach((id, place) => {
      if (!this.cards.has(id)) this.cards.set(id, new Card());
      this.cards.get(id).show(state.backends[id], place);
    });
    if (fresh.has("order")) byId("backends").append(...state.order.map(id => this.cards.get(id).element));
  }
}
