// Elements, and figures in words. Text becomes text: nothing here or elsewhere makes markup of it.

export const UNKNOWN = "–";

/** An element with attributes (`on`: listeners by event; false or null: left out) and children. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") {
      for (const [event, listen] of Object.entries(value)) made.addEventListener(event, listen);
    } else if (value !== null && value !== false) {
      made.setAttribute(key, value === true ? "" : String(value));
    }
  }
  made.append(...children.filter(each => each !== null));
  return made;
}

export const byId = id => document.getElementById(id);

/** Set a text, unless it is that already: what does not change costs no layout. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set a data attribute, or take it away. */
export function mark(element, name, value) {
  if (value === null || value === undefined || value === false) delete element.dataset[name];
  else if (element.dataset[name] !== String(value)) element.dataset[name] = String(value);
}

// -- figures -----------------------------------------------------------------------------------

const isNumber = value => typeof value === "number" && Number.isFinite(value);

/** About three digits of it. */
export function figure(value) {
  if (!isNumber(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 100) return Math.round(value).toLocaleString("en");
  if (size >= 10) return value.toFixed(1).replace(/\.0$/, "");
  if (size >= 0.01) return value.toFixed(2).replace(/\.?0+$/, "");
  return value.toPrecision(2);
}

const united = unit => value => isNumber(value) ? `${figure(value)}\u00a0${unit}` : UNKNOWN;
export const watts = united("W");
export const celsius = value =>
  isNumber(value) ? `${Math.round(value)}\u00a0°C` : UNKNOWN;
export const percent = value => isNumber(value) ? `${Math.round(value)}\u00a0%` : UNKNOWN;

/** Milliseconds, as seconds or minutes where they are that many. */
export function duration(ms) {
  if (!isNumber(ms)) return UNKNOWN;
  if (ms < 10) return `${figure(ms)}\u00a0ms`;
  if (ms < 1000) return `${Math.round(ms)}\u00a0ms`;
  if (ms < 60e3) return `${(ms / 1000).toFixed(ms < 10e3 ? 2 : 1)}\u00a0s`;
  const minutes = Math.floor(ms / 60e3);
  return minutes < 60
    ? `${minutes}\u00a0min ${Math.round((ms % 60e3) / 1000)}\u00a0s`
    : `${Math.floor(minutes / 60)}\u00a0h ${minutes % 60}\u00a0min`;
}

/** Joules; from a tenth of a watt-hour on as that, from a kWh on as that; as `like` is, where it is given. */
export function energy(joules, like = joules) {
  if (!isNumber(joules)) return UNKNOWN;
  if (like < 360) return `${figure(joules)}\u00a0J`;
  return like < 3.6e6 ? `${figure(joules / 3600)}\u00a0Wh` : `${figure(joules / 3.6e6)}\u00a0kWh`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});

/** The time of day of a time in seconds since 1970. */
export const clock = at => CLOCK.format(at * 1000);

/** One of a thing, or many. */
export const many = (count, one, others = `${one}s`) => `${count} ${count === 1 ? one : others}`;

/** The class that gives a backend its colour, by its place in the owner's order. */
export const hue = place => `hue-${Math.max(place, 0) % 8}`;
