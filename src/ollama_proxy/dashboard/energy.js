// What was spent since midnight, by backend, and what a thousand tokens came to.

import { byId, clock, el, energy, figure, hue, say, UNKNOWN } from "./dom.js";

const KEY = "ollama-proxy.price";
const GRADES = ["measured", "apportioned", "estimated"];
const HEADS = ["Backend", "Energy", "How found", "Tokens", "A token", "1 000 tokens", "1 000 tokens cost"];
const J_PER_KWH = 3.6e6;

const kept = () => {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
};

export class Energy {
  constructor() {
    const price = byId("price");
    price.value = kept();
    price.addEventListener("input", () => {
      try {
        localStorage.setItem(KEY, price.value);
      } catch {
        price.title = "This browser keeps nothing: the price holds until the page is closed.";
      }
      if (this.state) this.draw();
    });
  }

  show(state, fresh) {
    this.state = state;
    if (fresh.has("today") || fresh.has("order")) this.draw();
  }

  draw() {
    const { today, order, backends } = this.state;
    if (!today) return;
    const found = Object.entries(today.backends).map(([id, spent]) => {
      const grades = GRADES.filter(grade => spent[grade]);
      return { id, grades, joules: grades.length ? grades.reduce((sum, grade) => sum + spent[grade], 0) : null, tokens: spent.tokens ?? 0 };
    }).sort((one, other) => order.indexOf(one.id) - order.indexOf(other.id));
    const most = Math.max(...found.map(({ joules }) => joules ?? 0), 1e-9);
    const all = { id: null, grades: [], joules: 0, tokens: 0 };
    for (const each of found.filter(({ joules }) => joules !== null)) {
      all.joules += each.joules;
      all.tokens += each.tokens;
    }
    byId("energy").hidden = found.length === 0;
    byId("energy-none").hidden = found.length > 0;
    const thousandOf = each => each.tokens && each.joules !== null ? (each.joules / each.tokens) * 1000 : null;
    // One unit in a column: figures below each other are compared.
    const dearest = Math.max(...found.map(thousandOf));
    const row = each => {
      const bar = el("i", { class: "length", "aria-hidden": "true" });
      bar.style.width = `${((each.joules ?? 0) / most) * 100}%`;
      const name = each.id === null ? "All" : backends[each.id]?.name ?? each.id;
      const thousand = thousandOf(each);
      const price = parseFloat(byId("price").value);
      const cost = thousand === null || !(price >= 0) ? null : (thousand / J_PER_KWH) * price;
      const cells = [
        each.id !== null && each.joules === null ? "not read yet" : each.grades.join(", "), each.tokens.toLocaleString("en"),
        energy(thousand === null ? null : thousand / 1000, dearest / 1000), energy(thousand, dearest), cost === null ? UNKNOWN : figure(cost),
      ];
      return el("tr", { class: each.id === null ? "sum" : hue(order.indexOf(each.id)) },
        el("th", { scope: "row" }, el("span", { class: "named" }, name)),
        el("td", { class: "n" }, energy(each.joules, all.joules), each.id === null ? null : el("span", { class: "track" }, bar)),
        ...cells.map((text, index) => el("td", { class: index ? "n" : null }, text)));
    };
    byId("energy").replaceChildren(
      el("thead", {}, el("tr", {}, ...HEADS.map((head, index) => el("th", { scope: "col", class: index === 0 || index === 2 ? null : "n" }, head)))),
      el("tbody", {}, ...found.map(row), ...(found.length > 1 ? [row(all)] : [])));
    say(byId("energy-since"), `Since ${clock(today.since)}: midnight, or the router's start. What requests cost beyond what the hardware draws at rest; all: of those whose energy is known. A battery tells it after a minute or two.`);
  }
}
