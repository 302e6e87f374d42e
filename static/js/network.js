// The picture of the network: every block with its operations, widths and weights, at any commit of the run.
//
// A unit that is on is filled; one that was cut is hollow; one that came back has a colour of its own.

import { blockName, candidate, INNER, stateName } from "./names.js";
import { lastChange, unitsOn } from "./run.js";
import { plural, whole } from "./words.js";

/** Draws into `place` what `search_started` announces; `show(model, index)` moves it to a commit. */
export class Network {
  #place;
  #started = null;
  #blocks = [];
  #shown = null;
  #model = null;
  #folded = null;

  constructor(place) {
    this.#place = place;
    place.addEventListener("pointerover", (event) => this.#explain(event.target.closest?.("[data-unit]")));
  }

  /** index: a commit, or -1 for before the first. */
  show(model, index) {
    this.#model = model;
    if (!model.started) return;
    if (model.started !== this.#started) this.#build(model.started);
    const open = this.#open(model, index);
    const commit = model.commits[index];
    if (this.#shown && this.#shown.commit === commit && this.#shown.open === open) return;
    this.#shown = { commit, open };
    const states = this.#statesAt(model, index);
    const reached = model.started.stages[commit?.stage ?? 0]?.blocks ?? this.#blocks.length; // weights beyond do not run yet
    this.#blocks.forEach((block, number) => this.#paint(block, states, commit, { open: number < open, reached: number < reached }));
  }

  /** States of all operations at a commit; going on from the last ones asked for where that is possible. */
  #statesAt(model, index) {
    const { commits, started } = model;
    const known = this.#folded;
    const goesOn = known && known.index <= index && known.commit === commits[known.index];
    const from = goesOn ? known : { index: -1, states: new Map() };
    const operations = started.choices.filter((choice) => choice.granularity === "operation");
    for (let at = from.index + 1; at <= index; at += 1) advance(from.states, commits[at], operations);
    this.#folded = { index, commit: commits[index], states: from.states };
    return from.states;
  }

  /** How many blocks were open: now, or at the stage of that commit. */
  #open(model, index) {
    const latest = index >= model.commits.length - 1;
    const stage = latest ? (model.stage?.stage ?? 0) : (model.commits[index]?.stage ?? 0);
    return model.retrain || model.result ? this.#blocks.length : (model.started.stages[stage]?.blocks ?? this.#blocks.length);
  }

  #build(started) {
    this.#started = started;
    this.#shown = null;
    this.#place.replaceChildren();
    this.#blocks = started.blocks.map((block, number) => {
      const choices = started.choices.filter((choice) => choice.block === number || choice.block === block.name);
      const operations = choices.filter((choice) => choice.granularity === "operation");
      const card = element("section", operations.length ? "block" : "block slim");
      const head = element("header", "", element("h3", "", capital(blockName(block.name))), element("span", "share", `${Math.round(100 * block.share)} %`));
      head.lastChild.title = "share of the full network's size";
      const summary = element("p", "summary");
      const parts = { card, summary, choices, cells: new Map(), widths: [], weights: [] };
      card.append(head, summary);
      if (operations.length) card.append(table(operations, parts));
      const widths = element("div", "widths");
      for (const [label, members, hint] of widthGroups(choices)) widths.append(bar(label, hint, "filter", members, parts.widths));
      const weights = choices.filter((choice) => choice.granularity === "weight");
      if (weights.length) widths.append(bar("weights", "single weights of the convolutions that are still there", "weight", weights, parts.weights));
      card.append(widths);
      if (choices.length) this.#place.append(card); // a head has nothing to decide
      return parts;
    });
  }

  #paint(block, states, commit, { open, reached }) {
    block.card.classList.toggle("waiting", !open);
    let on = 0;
    let all = 0;
    for (const [name, cells] of block.cells) {
      const known = states.get(name);
      cells.forEach((cell, unit) => {
        const state = known?.[unit] ?? "on";
        if (isOn(state)) on += 1;
        all += 1;
        if (cell.dataset.state !== state) cell.dataset.state = state;
      });
    }
    const filters = ({ name, units }) => (commit ? unitsOn(commit.kept[name], units).reduce((sum, bit) => sum + bit, 0) : units);
    const weights = ({ name, units }) => (commit && reached ? (commit.kept_weights[name] ?? units) : units);
    for (const { choices, fill, value } of block.widths) fillBar(fill, value, total(choices, filters), total(choices));
    for (const { choices, fill, value } of block.weights) fillBar(fill, value, total(choices, weights), total(choices));
    block.summary.textContent = !open ? "waits for its stage" : all ? `${on} of ${plural(all, "operation")} on` : "";
  }

  /** Why is this unit on or off? Told by the tip that appears over it. */
  #explain(cell) {
    if (!cell || !this.#model) return;
    const index = this.#model.commits.indexOf(this.#shown.commit);
    const found = lastChange(this.#model, index, cell.dataset.choice, Number(cell.dataset.unit));
    const number = (value) => (typeof value === "number" ? value.toFixed(3) : "—");
    cell.title = found
      ? `${cell.dataset.name}: ${found.change.action} in epoch ${found.commit.epoch} (score ${number(found.change.score)}, threshold ${number(found.change.threshold)})`
      : cell.dataset.name;
  }
}

/** Takes `states` (choice -> state of each unit: on, off, cut = just now, back = on after having been off, back-now =
    just now) from one commit to the next. */
function advance(states, commit, operations) {
  for (const { name, units } of operations) {
    const before = states.get(name);
    states.set(name, Array.from(unitsOn(commit.kept[name], units), (on, unit) => next(before?.[unit] ?? "on", on)));
  }
}

function next(before, on) {
  const was = isOn(before);
  if (on) return was ? (before === "on" ? "on" : "back") : "back-now";
  return was ? "cut" : "off";
}

/** One cell for each candidate; a candidate without a column has the whole of its row. */
function table(operations, parts) {
  const placed = operations.map((choice) => [choice, choice.labels.map((label) => candidate(choice.name, label))]);
  const columns = new Map(placed.flatMap(([, places]) => places).filter(({ column }) => column).map(({ column, hint }) => [column, hint]));
  const names = [...columns.keys()];
  const head = element("tr", "", element("td", ""), ...names.map((name) => {
    const cell = element("th", "", name);
    cell.title = columns.get(name);
    return cell;
  }));
  const rows = element("tbody", "");
  for (const [choice, places] of placed) {
    let row = null;
    parts.cells.set(choice.name, places.map((place, unit) => {
      const cell = element("i", "unit");
      Object.assign(cell.dataset, { unit, choice: choice.name, state: "on", name: place.name });
      if (place.row !== places[unit - 1]?.row) {
        row = element("tr", unit === 0 ? "first" : "", element("th", "", place.row), ...(place.column ? names : [""]).map(() => element("td", "")));
        rows.append(row);
      }
      if (!place.column) row.lastChild.colSpan = names.length || 1;
      row.children[1 + Math.max(0, names.indexOf(place.column))].append(cell);
      return cell;
    }));
  }
  const grid = element("table", "units", element("thead", "", head), rows);
  grid.setAttribute("aria-hidden", "true"); // the summary above says it in words
  return grid;
}

/** Widths worth a bar each, and the many inner widths of convolutions as one. */
function widthGroups(choices) {
  const filters = choices.filter((choice) => choice.granularity === "filter");
  const inner = filters.filter((choice) => INNER.test(choice.name));
  const own = filters.filter((choice) => !INNER.test(choice.name));
  return [
    ...own.map((choice) => {
      const name = stateName(choice.name.split("_").at(-1));
      return [name, [choice], `channels of ${name}`];
    }),
    ...(inner.length ? [["inner", inner, "channels inside the convolutions, all together"]] : []),
  ];
}

function bar(label, hint, colour, choices, list) {
  const fill = element("i", "");
  const value = element("span", "value");
  const row = element("div", `bar ${colour}`, element("span", "name", label), element("span", "track", fill), value);
  row.title = hint;
  list.push({ choices, fill, value });
  return row;
}

function fillBar(fill, value, kept, all) {
  fill.style.width = `${all ? (100 * kept) / all : 0}%`;
  value.textContent = all > 999 ? `${Math.round((100 * kept) / all)} %` : `${whole(kept)}/${whole(all)}`;
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const isOn = (state) => state === "on" || state.startsWith("back");
const total = (choices, count = (choice) => choice.units) => choices.reduce((sum, choice) => sum + count(choice), 0);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
