// What a glance should tell: whether all is well, and a few figures of the whole.

import { byId, celsius, duration, el, figure, many, mark, percent, say, UNKNOWN, watts } from "./dom.js";

const WINDOW_MS = 10e3;
const NAMES = ["Requests a second", "In flight", "Waiting", "Drawn", "Hottest", "Battery"];
const STATUS = {
  ok: count => `${count === 1 ? "The backend is" : `All ${count} backends are`} well`,
  degraded: (count, well) => `${well} of ${count} backends are well`,
  down: () => "No backend is well",
};

export class Vitals {
  constructor() {
    this.tiles = NAMES.map(name => {
      const value = el("span", { class: "value" }, UNKNOWN);
      const note = el("span", { class: "soft" });
      const tile = el("div", {}, el("dt", {}, name), el("dd", {}, value, note));
      byId("vitals").append(tile);
      return { value, note, tile };
    });
    this.counts = [];
    this.state = null;
    // The rate falls while nothing comes; a page that nobody sees does not reckon it.
    setInterval(() => this.state && !document.hidden && this.showRate(), 2000);
  }

  set(index, value, note = "", mood = null) {
    const { tile, ...texts } = this.tiles[index];
    say(texts.value, value);
    say(texts.note, note);
    mark(tile, "mood", mood);
  }

  show(state, fresh) {
    this.state = state;
    const all = state.order.map(id => state.backends[id]).filter(each => each?.enabled);
    const well = all.filter(each => each.healthy).length;
    say(byId("status"), (STATUS[state.status] ?? (() => "The router"))(all.length, well));
    mark(byId("status"), "state", state.status);
    const sum = of => all.reduce((total, each) => total + of(each), 0);
    const waiting = sum(each => Object.values(each.queued).reduce((a, b) => a + b, 0));
    this.set(1, String(sum(each => each.in_flight)), `of ${many(sum(each => each.slots), "slot")}`);
    this.set(2, String(waiting), waiting ? "in line" : "nobody");
    if (fresh.has("flow")) this.count();
    this.showRate();
    if (state.machine) this.showMachine(state, all);
  }

  showMachine({ machine, mode }, all) {
    const own = all.map(each => each.temperature_c).filter(each => each !== null);
    const why = /(\d+(?:\.\d+)?) °C/.exec(machine.why ?? "");
    const hottest = Math.max(...own, why ? Number(why[1]) : -Infinity);
    const mood = { nominal: null, unknown: null, light: "warn", moderate: "warn" }[machine.state];
    const state = machine.state === "unknown" ? "no sensor tells" : machine.state;
    this.set(3, watts(machine.watts), machine.watts === null ? "no sensor tells" : "the whole machine");
    this.set(4, celsius(hottest), state, mood === undefined ? "bad" : mood);
    const left = mode?.battery_to_empty_s;
    const fed = mode?.on_battery === null ? "none is known"
      : !mode?.on_battery ? "on mains" : left ? `${duration(left * 1000)} left` : "on battery";
    const isLow = mode?.on_battery && mode.battery_percent < 20;
    this.set(5, percent(mode?.battery_percent), fed, isLow ? "warn" : null);
  }

  count() {
    const newest = Math.max(0, ...this.state.flow.keys());
    // Another run counts from one again.
    if (this.counts.length && newest < this.counts.at(-1).n) this.counts = [];
    if (!this.counts.length) this.recall();
    this.counts.push({ at: performance.now(), n: newest });
  }

  /** What came before the page did, as far as rows tell. */
  recall() {
    const since = this.state.now - WINDOW_MS / 1000;
    const oldest = [...this.state.flow.values()].find(row => row.at >= since);
    if (oldest) this.counts.push({ at: performance.now() - (this.state.now - oldest.at) * 1000, n: oldest.n - 1 });
  }

  showRate() {
    const now = performance.now();
    while (this.counts.length > 1 && this.counts[1].at < now - WINDOW_MS) this.counts.shift();
    const first = this.counts[0];
    const passed_s = first ? (now - first.at) / 1000 : 0;
    if (passed_s < 1) return;
    const rate = (this.counts.at(-1).n - first.n) / passed_s;
    this.set(0, rate && rate < 0.1 ? "< 0.1" : figure(rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate)), "over ten seconds");
  }
}
