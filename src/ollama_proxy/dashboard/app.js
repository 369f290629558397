// The page: keeps what the router tells, and has every part show what of it is new, once a frame.

import { byId, say } from "./dom.js";
import { Backends } from "./backends.js";
import { Charts } from "./charts.js";
import { Energy } from "./energy.js";
import { Explain } from "./explain.js";
import { Flow } from "./flow.js";
import { Modes } from "./mode.js";
import { Vitals } from "./vitals.js";
import { Stream, setUpKey } from "./wire.js";

const ROWS_MAX = 60;
const POINTS_MAX = 360;
const THEMES = ["system", "light", "dark"];

const state = { order: [], backends: {}, flow: new Map(), hour: null, mode: null, machine: null };
let unseen = new Set();
let isDue = false;

const parts = [new Vitals(), new Modes(), new Backends(), new Charts(), new Flow(), new Energy(), new Explain()];

function hear(kind, told) {
  if (kind === "snapshot") {
    if (state.version !== undefined && state.version !== told.version) location.reload();
    state.flow.clear();
    state.hour = null;
    state.backends = {};
  }
  for (const [name, value] of Object.entries(told)) {
    if (name === "backends") {
      for (const [id, fields] of Object.entries(value)) {
        state.backends[id] = { ...state.backends[id], ...fields };
      }
    } else if (name === "flow") {
      value.forEach(row => state.flow.set(row.n, row));
      while (state.flow.size > ROWS_MAX) state.flow.delete(state.flow.keys().next().value);
    } else if (name === "hour") {
      state.hour = joined(state.hour, value);
    } else {
      state[name] = value;
    }
    unseen.add(name);
  }
  if (!isDue) {
    isDue = true;
    requestAnimationFrame(show);
  }
}

function show() {
  isDue = false;
  const fresh = unseen;
  unseen = new Set();
  say(byId("version"), `version ${state.version}`);
  byId("main").removeAttribute("aria-busy");
  parts.forEach(part => part.show(state, fresh));
}

/** Lines with others behind them; what is named in one of the two only is unknown in the other. */
function joined(before, after) {
  if (before === null) return after;
  const length = before.at.length;
  const made = {};
  for (const [field, line] of Object.entries(after)) {
    if (Array.isArray(line)) {
      made[field] = [...before[field], ...line].slice(-POINTS_MAX);
      continue;
    }
    const gap = count => Array(count).fill(null);
    const names = new Set([...Object.keys(before[field]), ...Object.keys(line)]);
    made[field] = {};
    for (const name of names) {
      const old = before[field][name] ?? gap(length);
      made[field][name] = [...old, ...(line[name] ?? gap(after.at.length))].slice(-POINTS_MAX);
    }
  }
  return made;
}

function setUpTheme() {
  const button = byId("theme");
  const root = document.documentElement;
  const tell = () => {
    say(button, `Theme: ${root.dataset.theme ?? "system"}`);
    dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem("ollama-proxy.theme", next);
    } catch {
      button.title = "This browser keeps nothing: the choice holds until the page is closed.";
    }
    tell();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  tell();
}

setUpTheme();
setUpKey();
new Stream(hear).follow();
