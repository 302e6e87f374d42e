// The picture of the network: every block as a drawing of its states and operations, at any commit of the run; blocks of a
// library's model as bars (see bars.js).
//
// An operation that is on is a line, the wider the more filters pass through it. What was cut just now is dotted and red,
// what came back has a bud. The same events give the same markup, whether they were watched or replayed.

import { barDrawing, isImported, paintBars, spokenBars } from "./bars.js";
import { element } from "./elements.js";
import { isOn, States } from "./history.js";
import { blockGraph } from "./graph.js";
import { blockName } from "./names.js";
import { unitsOn } from "./run.js";
import { make, set } from "./svg.js";
import { percent, plural } from "./words.js";

const [THINNEST, WIDEST] = [1, 3.6];

const NOTHING = { svg: null, strands: [], nodes: [], bars: [], squares: [] };

/**
 * Draws into `place` what `search_started` announces; `show(model, index)` moves it to a commit.
 *
 * onPick(block, number): called when somebody chooses a block to look into; without it blocks cannot be chosen.
 */
export class Network {
  #place;
  #options;
  #started = null;
  #blocks = [];
  #states = null;
  #shown = null;
  #picked = null;

  constructor(place, options = {}) {
    this.#place = place;
    this.#options = options;
  }

  /** index: a commit, or -1 for before the first. */
  show(model, index) {
    if (!model.started) return;
    if (model.started !== this.#started) this.#build(model.started);
    const open = this.#open(model, index);
    const commit = model.commits[index] ?? null;
    if (this.#shown && this.#shown.commit === commit && this.#shown.open === open) return;
    this.#shown = { commit, open };
    this.draw(model, { kept: commit?.kept, weights: commit?.kept_weights, states: this.#states.at(model.commits, index), open });
  }

  /**
   * Shows these units as they are: of choices that `kept` does not know all are on, of `weights` all are kept; null for
   * weights of which nothing is known.
   */
  draw(model, { kept, weights, states, open = model.started.blocks.length }) {
    if (model.started !== this.#started) this.#build(model.started);
    const on = shares(this.#started.choices, kept);
    this.#blocks.forEach((block, number) => paint(block, { on, weights, states, isOpen: number < open, isFrontier: number === open - 1 && open < this.#blocks.length }));
  }

  /** Marks the block that is looked into; null for none. */
  pick(number) {
    this.#picked = number;
    this.#blocks.forEach(({ button }, at) => button?.setAttribute("aria-expanded", String(at === number)));
  }

  /** Puts the keyboard on a block's button. */
  focus(number) {
    this.#blocks[number]?.button?.focus();
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
    const shown = isImported(started) ? ["operation", "filter"] : ["operation"];
    this.#states = new States(started.choices.filter(({ granularity }) => shown.includes(granularity)));
    this.#blocks = started.blocks.map((block, number) => this.#card(block, number, choicesOf(started, number)));
    this.#place.replaceChildren(...this.#blocks.map(({ card }) => card));
    this.pick(this.#picked);
  }

  #card(block, number, choices) {
    const isModel = isImported(this.#started);
    const bare = this.#place.classList.contains("small");
    const picture = isModel ? barDrawing(this.#started, number, choices, { bare }) : drawing(blockGraph(choices));
    const name = isModel ? block.name : capital(blockName(block.name));
    const canPick = this.#options.onPick && (choices.length || picture);
    const button = canPick ? element("button", "pick", name) : null;
    if (button) {
      Object.assign(button, { type: "button" });
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => this.#options.onPick(block, number));
    }
    const share = element("span", "share", `${percent(block.share, 0)} of all`);
    share.title = "share of the full network's size";
    const summary = element("p", "summary");
    const weight = element("i", "");
    const value = element("span", "value");
    const weights = choices.filter((choice) => choice.granularity === "weight");
    const bar = element("div", "bar weight", element("span", "name", "weights"), element("span", "track", weight), value);
    const card = element("section", picture ? "block" : "block slim", element("header", "", element("h3", "", button ?? name), share), summary);
    if (picture) card.append(picture.svg);
    if (weights.length) card.append(bar);
    return { card, button, name, summary, choices, ...NOTHING, ...picture, weights, bar, weight, value };
  }
}

/** What `search_started` says of a block's choices. */
export function choicesOf(started, number) {
  return started.choices.filter((choice) => choice.block === number || choice.block === started.blocks[number].name);
}

/** Operation or filter choice -> {units, on, share, bits} of it. */
function shares(choices, kept) {
  return new Map(choices.filter(({ granularity }) => granularity !== "weight").map(({ name, units }) => {
    const bits = kept?.[name] === undefined ? new Uint8Array(units).fill(1) : unitsOn(kept[name], units);
    const on = bits.reduce((sum, bit) => sum + bit, 0);
    return [name, { units, on, share: on / units, bits }];
  }));
}

/** Elements for a block's graph: {svg, strands, nodes}, each with its parts; null for null. */
export function drawing(graph) {
  if (!graph) return null;
  const svg = make("svg", { viewBox: `0 0 ${graph.width} ${graph.height}`, role: "img", class: "cell" });
  svg.style.maxWidth = `${1.25 * graph.width}px`;
  const strands = graph.strands.map((strand) => {
    const line = make("path", { d: strand.path, class: strand.free ? "strand free" : "strand" });
    const bud = make("circle", { cx: strand.bud[0], cy: strand.bud[1], r: 3, class: "bud" });
    const reach = make("path", { d: strand.path, class: "reach", "data-choice": strand.choice, "data-unit": strand.unit, "data-name": strand.name });
    return { ...strand, line, bud, reach };
  });
  const nodes = graph.nodes.map((node) => {
    const [x, y] = [node.x - node.width / 2, node.y - node.height / 2];
    const fill = make("rect", { x, y, width: node.width, height: node.height, rx: 5, class: "fill" });
    const frame = make("rect", { x, y, width: node.width, height: node.height, rx: 5, class: "frame" });
    const text = make("text", { x: node.x, y: node.y + 3.6, "text-anchor": "middle" });
    text.textContent = node.label;
    return { ...node, fill, frame, text };
  });
  svg.append(...strands.flatMap(({ line }) => line), ...nodes.flatMap(({ fill, frame, text }) => [fill, frame, text]));
  svg.append(...strands.flatMap(({ reach, bud }) => [reach, bud]));
  return { svg, strands, nodes };
}

function paint(block, { on, weights, states, isOpen, isFrontier }) {
  block.card.classList.toggle("waiting", !isOpen);
  block.card.classList.toggle("frontier", isFrontier);
  let alive = 0;
  for (const strand of block.strands) {
    const state = states?.get(strand.choice)?.[strand.unit] ?? (on.get(strand.choice).bits[strand.unit] ? "on" : "off");
    if (isOn(state)) alive += 1;
    const width = isOn(state) ? passing(strand, on) : 0;
    set(strand.line, "data-state", state);
    set(strand.bud, "data-state", state);
    set(strand.reach, "data-state", state);
    set(strand.line, "stroke-width", (THINNEST + (WIDEST - THINNEST) * width).toFixed(2));
  }
  for (const node of block.nodes) {
    const known = node.choice && on.get(node.choice);
    set(node.fill, "width", (node.width * (known?.share ?? 1)).toFixed(1));
    if (known) set(node.text, null, `${node.label} ${known.on}`);
  }
  const [kept, all] = totals(block.weights, weights);
  block.bar.hidden = weights === null; // not known
  if (all && weights !== null) {
    block.weight.style.width = percent(kept / all).replace(" ", "");
    set(block.value, null, percent(kept / all, 0));
  }
  const filters = block.choices.filter((choice) => choice.granularity === "filter");
  const bars = block.bars.length + block.squares.length ? paintBars(block, { name: block.name, on, states }) : null;
  if (bars) block.card.classList.toggle("gone", bars.gone);
  const slim = bars?.text ?? filters.map(({ name }) => `${on.get(name).on} of ${plural(on.get(name).units, "filter")} on`).join(", ");
  const text = !isOpen ? "waits for its stage" : block.strands.length ? `${alive} of ${plural(block.strands.length, "operation")} on` : slim;
  set(block.summary, null, text);
  if (block.svg) block.svg.setAttribute("aria-label", spoken(block, on, text));
}

/** Share of the filters that pass through an operation: of those inside, and of those that it feeds. */
function passing({ inner, feeds }, on) {
  const inside = inner.reduce((share, name) => share * on.get(name).share, 1);
  return Math.min(inside, feeds ? on.get(feeds).share : 1);
}

function totals(choices, kept) {
  return [choices.reduce((sum, { name, units }) => sum + (kept?.[name] ?? units), 0), choices.reduce((sum, { units }) => sum + units, 0)];
}

/** What a screen reader hears instead of the picture. */
function spoken(block, on, summary) {
  const nodes = block.nodes.filter(({ choice }) => choice).map(({ label, choice }) => `${label} ${on.get(choice).on} of ${on.get(choice).units} filters`);
  return `${block.name}: ${[summary, ...nodes, ...spokenBars(block)].join(", ")}.`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
