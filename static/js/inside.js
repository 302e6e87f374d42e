// A look into one block: its operations by score and threshold, its filters as a heat-map, how dense its convolutions are.

import { depthOf, isImported } from "./bars.js";
import { element } from "./elements.js";
import { isOn, States, told } from "./history.js";
import { blockName, candidate, operationWord, partName, prefixOf, stateName, widthName } from "./names.js";
import { choicesOf } from "./network.js";
import { isBlockwise } from "./ratings.js";
import { scoresOf, unitsOn } from "./run.js";
import { percent } from "./words.js";

const WORDS = { on: "on", off: "off", cut: "just fell", back: "came back", "back-now": "just came back" };

/** Draws into `place`; `show(model, index, number)` moves it to a block at a commit. */
export class Inside {
  #place;
  #shown = null;
  #states = null;

  constructor(place, { onClose }) {
    this.#place = place;
    place.addEventListener("click", (event) => event.target.closest?.("[data-close]") && onClose());
    place.addEventListener("keydown", (event) => event.key === "Escape" && onClose());
  }

  hide() {
    this.#shown = null;
    this.#place.hidden = true;
    this.#place.replaceChildren();
  }

  show(model, index, number) {
    const commit = model.commits[index] ?? null;
    if (this.#shown && this.#shown.number === number && this.#shown.commit === commit && this.#shown.started === model.started) return;
    const choices = choicesOf(model.started, number);
    const units = candidates(model.started, number, choices);
    if (this.#shown?.number !== number || this.#shown?.started !== model.started) {
      const depth = new Set(units.map(({ choice }) => choice));
      this.#states = new States(model.started.choices.filter((choice) => depth.has(choice) || (choice.granularity === "filter" && choices.includes(choice))));
    }
    const opened = this.#shown?.number !== number;
    this.#shown = { number, commit, started: model.started };
    const known = this.#states.at(model.commits, index);
    const at = { model, index, commit, scores: standing(model, index), hasScores: !isBlockwise(model), states: (name, units) => known.get(name) ?? new Array(units).fill("on") };
    const title = element("h3", "", `Inside ${blockName(model.started.blocks[number].name)}`);
    title.tabIndex = -1;
    const close = element("button", "btn btn-quiet btn-sm", "Close");
    Object.assign(close, { type: "button" });
    close.dataset.close = "";
    const scroll = this.#place.querySelector(".scroll")?.scrollTop ?? 0;
    const held = ["[data-close]", ".scroll", "h3"].find((part) => this.#place.querySelector(part) === document.activeElement);
    this.#place.replaceChildren(
      element("div", "head", title, close),
      ...[operations(units, at), filters(choices, at), weights(choices, at)].filter(Boolean),
    );
    this.#place.hidden = false;
    if (this.#place.querySelector(".scroll")) this.#place.querySelector(".scroll").scrollTop = opened ? 0 : scroll;
    if (opened || held) this.#place.querySelector(opened ? "h3" : held).focus({ preventScroll: !opened });
  }
}

/** Scores and thresholds as they were at the last commit that told them: {scores, thresholds}, empty before. */
function standing(model, index) {
  for (let at = index; at >= 0; at -= 1) {
    const { scores, thresholds } = model.commits[at];
    if (scores && Object.keys(scores).length) return { scores, thresholds };
  }
  return { scores: {}, thresholds: {} };
}

/** The units of operation choices that belong to a block: {choice, unit, name}. */
function candidates(started, number, choices) {
  if (isImported(started)) {
    const named = new Map(started.choices.map((choice) => [choice.name, choice]));
    return depthOf(started, number).map(({ choice, unit, label }) => ({ choice: named.get(choice), unit, name: label }));
  }
  const operations = choices.filter(({ granularity }) => granularity === "operation");
  return operations.flatMap((choice) => choice.labels.map((label, unit) => ({ choice, unit, name: candidate(choice.name, label) })));
}

function operations(units, at) {
  const rows = units.map(({ choice, unit, name }) => {
    const states = at.states(choice.name, choice.units);
    const scores = scoresOf(at.scores.scores[choice.name]);
    const limits = at.scores.thresholds[choice.name] ?? [];
    return row(choice, unit, name, states[unit], scores?.[unit], limits[unit] ?? limits[0], at);
  });
  if (!rows.length) return null;
  const word = operationWord(at.model.started);
  const columns = [capital(word), at.hasScores && "Score against threshold", "State"].filter(Boolean);
  const head = element("tr", "", ...columns.map((text) => {
    const cell = element("th", "", text);
    cell.scope = "col";
    return cell;
  }));
  const table = element("table", "operations", element("thead", "", head), element("tbody", "", ...rows));
  const scroll = element("div", "scroll", table);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", `${capital(word)}s of this part`);
  return element("div", "", element("h4", "", `${capital(word)}s`), note(rule(word, at)), scroll);
}

function rule(word, { hasScores }) {
  if (!hasScores) return `No ${word} has a score of its own: what is rated are whole candidates of a block, further below.`;
  return `${word === "block" ? "A" : "An"} ${word} whose score falls below the threshold, the mark, is switched off.`;
}

function row(choice, unit, name, state, score, limit, { model, index, hasScores }) {
  const head = element("th", "", name);
  head.scope = "row";
  const story = told(model, index, choice.name, unit);
  const cells = [hasScores && element("td", "", ...measured(state, score, limit)), element("td", "", element("strong", state, WORDS[state]), story ? element("small", "", story) : "")];
  const made = element("tr", "", head, ...cells.filter(Boolean));
  made.dataset.state = state;
  return made;
}

/** A score against its threshold, drawn and in words. */
function measured(state, score, limit) {
  const gauge = element("span", "gauge");
  if (score !== undefined) {
    const fill = element("i", isOn(state) ? "" : "low");
    fill.style.width = percent(score).replace(" ", "");
    gauge.append(fill);
    if (limit !== undefined) {
      const mark = element("b", "");
      mark.style.left = percent(Math.min(1, limit)).replace(" ", "");
      gauge.append(mark);
    }
  }
  const words = score === undefined ? "not told yet" : `${score.toFixed(2)}${limit === undefined ? "" : ` against ${limit.toFixed(2)}`}`;
  return [gauge, element("small", "", words)];
}

function filters(choices, at) {
  const owned = owners(choices);
  const all = choices.filter(({ granularity }) => granularity === "filter");
  const shown = all.filter(({ name }) => runs(name, owned, at, choices));
  if (!shown.length) return null;
  const rows = shown.map((choice) => {
    const states = at.states(choice.name, choice.units);
    const scores = scoresOf(at.scores.scores[choice.name]);
    const owner = owned.get(choice.name);
    const name = owner ? widthName(owner) : stateOf(choice.name, at);
    const map = element("span", "heat", ...states.map((state, unit) => {
      const cell = element("i", "");
      Object.assign(cell.dataset, { unit, choice: choice.name, state, name: `filter ${unit + 1}, ${name}` });
      cell.style.setProperty("--score", String(scores?.[unit] ?? 1));
      return cell;
    }));
    map.setAttribute("aria-hidden", "true"); // the number beside it says it
    return element("li", "", element("span", "name", name), map, element("span", "value", `${states.filter(isOn).length} of ${choice.units}`));
  });
  const left = all.length - shown.length;
  const colour = at.hasScores ? ", the stronger its colour the higher its score" : "";
  const text = `Each square is a filter${colour}; a hollow one is off.${left ? ` What is inside operations that are off is left out.` : ""}`;
  return element("div", "", element("h4", "", "Filters"), note(text), element("ul", "strips", ...rows));
}

function weights(choices, at) {
  const owned = owners(choices);
  const shown = choices.filter(({ granularity, name }) => granularity === "weight" && runs(name, owned, at, choices));
  if (!shown.length) return null;
  const rows = shown.map(({ name, units }) => {
    const kept = at.commit?.kept_weights[name] ?? units;
    const owner = owned.get(name);
    const fill = element("i", "");
    fill.style.width = percent(kept / units).replace(" ", "");
    return element("li", "bar weight", element("span", "name", owner ? `${owner.name}, ${owner.part}` : stateOf(name, at)), element("span", "track", fill), element("span", "value", percent(kept / units, 0)));
  });
  return element("div", "", element("h4", "", "Weights"), note("How many single weights of each convolution are left, of all that it could have."), element("ul", "densities", ...rows));
}

/** Filter or weight choice -> {choice, unit, name, part} of the operation that it is a part of; states have none. */
function owners(choices) {
  const operations = choices.filter(({ granularity }) => granularity === "operation").flatMap((choice) =>
    choice.labels.map((label, unit) => ({ choice: choice.name, unit, prefix: prefixOf(choice.name, label), name: candidate(choice.name, label) })));
  return new Map(choices.flatMap(({ name }) => {
    const found = operations.find(({ prefix }) => name.startsWith(prefix));
    return found ? [[name, { ...found, part: partName(name.slice(found.prefix.length)) }]] : [];
  }));
}

/** Whether the choice belongs to a state, or to an operation that is on. */
function runs(name, owned, { commit }, choices) {
  const owner = owned.get(name);
  if (!owner || !commit) return true;
  const { units } = choices.find((choice) => choice.name === owner.choice);
  return unitsOn(commit.kept[owner.choice], units)[owner.unit] === 1;
}

function stateOf(name, { model }) {
  if (isImported(model.started)) return name.replace(/_weights$/, "");
  const plain = name.replace(/_conv_weights$/, "");
  return ["stem", "last"].includes(plain) ? plain : stateName(plain.split("_").at(-1));
}

function note(text) {
  return element("p", "soft", text);
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
