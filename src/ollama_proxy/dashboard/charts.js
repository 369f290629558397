// The last hour: what is drawn, how warm it is, how long a first token takes, and who waits.

import { byId, celsius, clock, duration, el, figure, hue, mark, say, UNKNOWN, watts } from "./dom.js";

const HEIGHT = 168;
const SPAN_S = 3600;
const NEUTRAL = 8; // the first colour that is no backend's
const KINDS = [
  {
    title: "Watts", unit: watts, floor: 5,
    none: "No sensor tells.",
    lines: hour => [...named(hour.watts, "sensor"), ...named(hour.spent_watts, "requests")],
  },
  { title: "Temperature", none: "No sensor tells.", unit: celsius, range: [20, 90], lines: hour => named(hour.temperature_c, "part") },
  { title: "Time to first token", unit: duration, none: "No stream was answered yet.", floor: 100, spans: true, lines: hour => named(hour.first_ms, "") },
  { title: "Waiting", unit: figure, none: "No line yet.", floor: 4, steps: true, lines: hour => named(hour.waiting, "") },
];

const named = (lines, what) => Object.entries(lines).map(([id, values]) => ({ id, what, values }));

class Chart {
  constructor(kind) {
    this.kind = kind;
    this.names = "";
    this.plot = null;
    this.canvas = el("div", { class: "plot", role: "img", "aria-label": kind.title });
    this.legend = el("ul", { class: "legend" });
    this.when = el("span", { class: "soft" });
    this.none = el("p", { class: "none" }, kind.none);
    this.element = el("figure", { class: "chart panel" },
      el("figcaption", {}, el("h3", {}, kind.title), this.when), this.canvas, this.none, this.legend);
    new ResizeObserver(() => this.fit()).observe(this.canvas);
  }

  /** The newest value; of what is told only now and then, the newest that is. */
  latest(values) {
    return (this.kind.spans ? values.findLast(value => value !== null) : values.at(-1)) ?? null;
  }

  fit() {
    const width = Math.floor(this.canvas.clientWidth);
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  show(state) {
    const lines = this.kind.lines(state.hour)
      .filter(({ values }) => values.some(value => value !== null))
      .sort((one, other) => state.order.indexOf(one.id) - state.order.indexOf(other.id));
    this.none.hidden = lines.length > 0;
    this.canvas.hidden = lines.length === 0;
    const names = JSON.stringify([state.order, lines.map(({ id, what }) => [id, what])]);
    const data = [state.hour.at, ...lines.map(({ values }) => values)];
    this.lines = lines;
    if (names !== this.names) this.build(state, names, data);
    else this.plot?.setData(data);
    this.tell(null);
    const told = lines.map(({ id, what, values }) => {
      const known = values.filter(value => value !== null);
      return `${this.label(state, id, what)}: now ${this.kind.unit(this.latest(values))}, at most ${this.kind.unit(Math.max(...known))}`;
    });
    this.canvas.setAttribute("aria-label", `${this.kind.title} over the last hour. ${told.join("; ")}`);
  }

  label(state, id, what) {
    if (what === "part") return state.machine?.parts.find(part => part.id === id)?.name || id;
    const name = state.backends[id]?.name ?? id;
    return what === "requests" ? `${name}: its requests` : name;
  }

  build(state, names, data) {
    this.names = names;
    this.plot?.destroy();
    this.plot = null;
    let spare = NEUTRAL;
    this.items = this.lines.map(({ id, what }) => {
      const place = state.order.indexOf(id);
      const value = el("b", {}, UNKNOWN);
      const label = this.label(state, id, what);
      const swatch = el("i", { "aria-hidden": "true", "data-thin": place < 0 });
      return { value, swatch, place, item: el("li", { class: place < 0 ? `hue-${spare++ % 3 + NEUTRAL}` : hue(place) }, swatch, el("span", {}, label), value) };
    });
    this.legend.replaceChildren(...this.items.map(({ item }) => item));
    if (this.lines.length) this.plot = new uPlot(this.options(), data, this.canvas);
  }

  options() {
    const paint = getComputedStyle(this.element);
    const ink = paint.color;
    const grid = getComputedStyle(this.legend).borderTopColor;
    const axis = { stroke: ink, font: "11px system-ui, sans-serif", ticks: { show: false }, grid: { stroke: grid, width: 1 } };
    const { unit, floor, range, steps, spans } = this.kind;
    const scale = range
      ? (_, low, high) => low === null ? range : [Math.min(range[0], Math.floor(low / 10) * 10), Math.max(range[1], Math.ceil(high / 10) * 10)]
      : (_, low, high) => [0, Math.max(floor, (high ?? 0) * 1.1)];
    return {
      width: Math.max(200, Math.floor(this.canvas.clientWidth)), height: HEIGHT,
      legend: { show: false },
      padding: [8, 20, 0, 0],
      cursor: { sync: { key: "hour" }, drag: { x: false, y: false }, y: false, points: { size: 7 } },
      hooks: { setCursor: [plot => this.tell(plot.cursor.idx)] },
      scales: { x: { time: true, range: (_, low, high) => [high - SPAN_S, high] }, y: { range: scale } },
      axes: [
        { ...axis, space: 70, size: 26, grid: { show: false }, values: (_, times) => times.map(at => clock(at).slice(0, 5)) },
        { ...axis, size: 58, values: (_, values) => values.map(value => Number.isInteger(value) || !steps ? unit(value) : "") },
      ],
      series: [{}, ...this.items.map(({ swatch, place }) => ({
        stroke: getComputedStyle(swatch).backgroundColor,
        width: place < 0 ? 1.25 : 2,
        dash: place < 0 && this.kind.title === "Watts" ? [5, 4] : undefined,
        spanGaps: Boolean(spans),
        paths: steps ? uPlot.paths.stepped({ align: -1 }) : undefined,
        // A line of one point would not be seen.
        points: { show: plot => spans || plot.data[0].length < 3, size: 4 },
      }))],
    };
  }

  /** The values at a point; the newest where none is pointed at. */
  tell(index) {
    const at = index ?? undefined;
    this.items?.forEach(({ value }, number) => {
      const values = this.lines[number].values;
      say(value, this.kind.unit(at === undefined ? this.latest(values) : values[at] ?? null));
    });
    const times = this.plot?.data[0];
    say(this.when, at === undefined || !times ? "now" : clock(times[at]));
    mark(this.when, "past", at !== undefined);
  }
}

export class Charts {
  constructor() {
    this.charts = KINDS.map(kind => new Chart(kind));
    byId("hour").append(...this.charts.map(({ element }) => element));
    this.state = null;
    addEventListener("theme", () => {
      this.charts.forEach(chart => { chart.names = ""; });
      if (this.state?.hour) this.charts.forEach(chart => chart.show(this.state));
    });
  }

  show(state, fresh) {
    this.state = state;
    if (state.hour && (fresh.has("hour") || fresh.has("order"))) this.charts.forEach(chart => chart.show(state));
  }
}
