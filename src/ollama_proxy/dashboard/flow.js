// The last requests, the newest first: where each went and why, and what came of it.

import { byId, clock, duration, el, energy, hue, mark, say } from "./dom.js";

const SHOWN = 24;
const WHYS = {
  "explicit-target": "The caller named a backend or a kind of hardware.",
  "latency-critical": "The caller wants the first token as soon as can be.",
  "power-efficient": "The caller wants the least energy.",
  deadline: "Only so is the caller's deadline met.",
  "power-budget": "Others draw more watts than are allowed.",
  "mode-performance": "The mode Performance decided.",
  "mode-balanced": "The mode Balanced decided.",
  "mode-efficiency": "The mode Efficiency decided.",
  "mode-quiet": "The mode Quiet decided.",
  "mode-auto": "The mode Auto decided.",
  "mode-ultra-efficiency": "The mode Ultra Efficiency decided.",
  thermal: "Another one is too warm.",
  battery: "The battery is to last.",
  "model-loaded": "The model is in its memory already.",
  "only-candidate": "No other can serve it.",
  failover: "Another one failed before its first byte.",
  balanced: "The best trade of time and watts.",
};
const FOUND = {
  measured: "Measured by its card's own sensor.",
  apportioned: "Its share of what the package or the battery gave.",
  estimated: "By the watts that the configuration names: nothing measures it, or nothing has yet.",
};
const COLUMNS = ["Time", "Model", "Backend", "Why there", "Priority", "Waited", "First token", "In all", "Tokens", "Energy", "Outcome"];
const NUMBERS = new Set(["Waited", "First token", "In all", "Tokens", "Energy"]);

class Line {
  constructor() {
    this.cells = COLUMNS.map(name => el("td", { "data-name": name, class: NUMBERS.has(name) ? "n" : null }, el("span")));
    this.element = el("tr", {}, ...this.cells);
    this.row = null;
  }

  show(row, place, name) {
    if (this.row === row && this.place === place) return;
    this.row = row;
    this.place = place;
    const moved = row.moves ? ` (moved ${row.moves}×)` : "";
    const texts = [
      clock(row.at),
      row.model || "none",
      name ?? row.backend ?? "none",
      (row.reason ?? "") + moved,
      (row.priority ?? "").replace("_", " "),
      row.queue_ms === null ? "" : row.queue_ms < 1 ? "no" : duration(row.queue_ms),
      row.first_ms === null ? "" : duration(row.first_ms),
      row.whole_ms === null ? "" : duration(row.whole_ms),
      row.tokens === null ? "" : row.tokens.toLocaleString("en"),
      row.joules === null ? "" : `${row.joules_source === "estimated" ? "≈\u00a0" : ""}${energy(row.joules)}`,
      [row.outcome.replace("-", " "), row.code?.replaceAll("_", " ")].filter(Boolean).join(": "),
    ];
    this.element.className = row.backend === null ? "" : hue(place);
    mark(this.element, "outcome", row.outcome);
    texts.forEach((text, index) => {
      say(this.cells[index].firstChild, text);
      mark(this.cells[index], "empty", text === "");
    });
    this.cells[1].title = row.model;
    this.cells[3].title = WHYS[row.reason] ?? "";
    this.cells[9].title = FOUND[row.joules_source] ?? "";
  }
}

export class Flow {
  constructor() {
    this.lines = [];
    this.isHeld = false;
    this.state = null;
    const hold = byId("flow-hold");
    hold.addEventListener("click", () => {
      this.isHeld = !this.isHeld;
      hold.setAttribute("aria-pressed", String(this.isHeld));
      if (!this.isHeld && this.state) this.draw();
    });
    byId("reasons").append(...Object.entries(WHYS).map(([reason, why]) =>
      el("div", {}, el("dt", {}, reason), el("dd", {}, why))));
  }

  show(state, fresh) {
    this.state = state;
    if ((fresh.has("flow") || fresh.has("order")) && !this.isHeld) this.draw();
  }

  /** The same lines hold other rows: none is made or moved, however many come. */
  draw() {
    const rows = [...this.state.flow.values()].slice(-SHOWN).reverse();
    while (this.lines.length < rows.length) {
      const line = new Line();
      this.lines.push(line);
      byId("flow").append(line.element);
    }
    while (this.lines.length > rows.length) this.lines.pop().element.remove();
    const { order, backends } = this.state;
    rows.forEach((row, index) => this.lines[index].show(
      row, order.indexOf(row.backend), backends[row.backend]?.name));
    byId("flow-none").hidden = rows.length > 0;
  }
}
