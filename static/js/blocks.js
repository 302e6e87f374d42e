// Blocks that are rated one by one: a panel each with its candidates, and which of them together make a network of a size.
//
// Drawn from what `block_rated` and `paths_found` say; a panel is made once, and only its mark moves with the slider.

import { element } from "./elements.js";
import { candidate } from "./names.js";
import { make, set } from "./svg.js";
import { amount, count, enumerated, metricUnit, plural, whole } from "./words.js";

const [WIDTH, HEIGHT] = [260, 150];
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 8, 10, 26]; // room beside the points
const HIGH = -0.8; // a rank correlation below which size tells nearly all that the rating does

/** Draws into the section `place`, which has room for everything; hidden for runs that rate no blocks. */
export class Blocks {
  #place;
  #model = null;
  #panels = [];
  #networks = [];
  #paths = null;

  constructor(place) {
    this.#place = place;
    this.#slider.addEventListener("input", () => this.#mark());
  }

  show(model) {
    const { started, stage, phase } = model;
    this.#model = model;
    this.#place.hidden = !isBlockwise(model);
    if (this.#place.hidden) return;
    const rated = model.rated.filter(Boolean);
    const total = rated[0]?.blocks ?? started.stages.length;
    const turn = started.stages.findIndex(({ name }) => name === stage?.name);
    const learns = (number) => phase === "search" && (started.stages.length === total ? number === turn : turn >= 0);
    while (this.#panels.length > total) this.#panels.pop().item.remove();
    while (this.#panels.length < total) this.#add(this.#panels.length + 1);
    this.#panels.forEach((panel, number) => panel.fill(model.rated[number] ?? null, learns(number), model));
    const words = summary(rated, total, metricUnit(started.metric));
    tell(this.#part("summary"), words);
    if (this.#paths !== model.paths) this.#found(model);
  }

  /** Moves the slider to the largest network that is no larger than this. */
  wish(size) {
    if (!this.#networks.length) return;
    this.#slider.value = Math.max(0, this.#networks.findLastIndex((network) => network.size <= size));
    this.#mark();
  }

  get #slider() {
    return this.#place.querySelector("input");
  }

  #part(name) {
    return this.#place.querySelector(`[data-${name}]`);
  }

  #add(number) {
    const panel = new Panel(number);
    this.#panels.push(panel);
    this.#part("panels").append(panel.item);
  }

  /** The networks are known, or no longer so. */
  #found(model) {
    this.#paths = model.paths;
    for (const part of this.#place.querySelectorAll("[data-found], [data-wish]")) part.hidden = !model.paths;
    this.#panels.forEach((panel, number) => panel.take(model.paths?.chosen, number));
    if (!model.paths) {
      [this.#networks, this.#slider.max] = [[], 0];
      this.#slider.removeAttribute("aria-valuetext");
      tell(this.#part("words"), "");
      for (const panel of this.#panels) panel.wish(null);
      return;
    }
    const { networks, chosen } = model.paths;
    const isTaken = { ...chosen, isTaken: true };
    this.#networks = [...networks.filter(({ size }) => size !== chosen.size), isTaken].sort((a, b) => a.size - b.size);
    this.#slider.max = this.#networks.length - 1;
    this.#slider.value = this.#networks.indexOf(isTaken);
    this.#mark();
  }

  #mark() {
    const network = this.#networks[Number(this.#slider.value)];
    const unit = metricUnit(this.#model.started.metric);
    const what = `${whole(network.size)} ${unit}, summed rating ${rating(network.rating)}`;
    const words = network.isTaken
      ? `${what}: the network that was taken. Move the slider, and all blocks show what the best network of that size would consist of.`
      : `${what}: ${compared(network, this.#paths.chosen)}`;
    tell(this.#part("words"), words);
    this.#slider.setAttribute("aria-valuetext", words);
    this.#panels.forEach((panel, number) => panel.wish(network.isTaken ? taken(network, number) : panel.front(network.picks[number])));
  }
}

/** One block. */
class Panel {
  item = element("li", "");
  #event = undefined;
  #started = null;
  #picture = null;
  #note = element("p", "");
  #layers = element("ol", "");

  constructor(number) {
    this.title = `Block ${number}`;
  }

  /** Draws what is known of it: its rated candidates, or in words that there are none yet. */
  fill(event, isLearning, { started }) {
    if (!event && isLearning) this.item.className = "now";
    else this.item.removeAttribute("class");
    if (this.#event === event && event) return;
    [this.#event, this.#started] = [event, started];
    const head = element("h3", "", this.title);
    if (!event) {
      this.#picture = null;
      const words = isLearning ? "training now" : "not rated yet";
      if (this.item.textContent !== `${this.title}${words}`) this.item.replaceChildren(head, element("p", "empty-panel", words));
      return;
    }
    this.#picture = new Picture(this.title, event, metricUnit(started.metric));
    const about = element("p", "", `${plural(event.candidates, "candidate")} of ${plural(event.choices.length, "layer")}${tau(event)}`);
    this.item.replaceChildren(head, about, this.#picture.svg, this.#note, this.#layers);
    tell(this.#note, "");
    this.#layers.replaceChildren();
  }

  /** The candidate that the network `chosen` has of it, ringed; null for none. */
  take(chosen, number) {
    this.#picture?.ring(chosen ? { cost: chosen.costs[number], rating: chosen.ratings[number] } : null);
  }

  /** A candidate of its front. */
  front(place) {
    return this.#event?.front[place] ?? null;
  }

  /** Marks a candidate, {cost, rating, units}, and says what it consists of; nothing for null. */
  wish(one) {
    this.#picture?.mark(one);
    if (!this.#event) return;
    tell(this.#note, one ? `${amount(one.cost)} ${metricUnit(this.#started.metric)}, rated ${rating(one.rating)}:` : "");
    this.#layers.replaceChildren(...(one ? layers(this.#event, one.units, this.#started) : []));
  }
}

/** The candidates of a block by cost and rating. */
class Picture {
  svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  #taken = make("circle", { r: 5.5, class: "taken", visibility: "hidden" });
  #wished = make("path", { d: "M0 -5.5L5.5 0L0 5.5L-5.5 0Z", class: "wished", visibility: "hidden" });

  constructor(title, { points, front, candidates }, unit) {
    const known = points.filter(([cost, value]) => cost !== null && value !== null);
    const [costs, ratings] = [0, 1].map((axis) => [...known.map((point) => point[axis]), ...front.map((one) => [one.cost, one.rating][axis])]);
    this.x = scale(costs, LEFT, WIDTH - RIGHT);
    this.y = scale(ratings, HEIGHT - BOTTOM, TOP);
    const dots = (pairs) => pairs.map(([cost, value]) => `M${this.x.at(cost)} ${this.y.at(value)}h0`).join("");
    const stairs = front.map(({ cost, rating: value }, place) => `${place ? `H${this.x.at(cost)}V` : `M${this.x.at(cost)} `}${this.y.at(value)}`).join("");
    const text = (x, y, anchor, words) => {
      const made = make("text", { x, y, "text-anchor": anchor });
      set(made, null, words);
      return made;
    };
    this.svg.setAttribute("aria-label", `${title}: ${plural(candidates, "candidate")}, ${amount(this.x.low)} to ${amount(this.x.high)} ${unit}, rated ${rating(this.y.low)} (best) to ${rating(this.y.high)}; of ${whole(front.length)} none is both smaller and better.`);
    this.svg.append(
      make("path", { d: `M${LEFT - 4} ${TOP}V${HEIGHT - BOTTOM + 4}H${WIDTH - RIGHT}`, class: "axis" }),
      text(LEFT - 7, TOP + 4, "end", rating(this.y.high)), text(LEFT - 7, HEIGHT - BOTTOM, "end", rating(this.y.low)),
      text(LEFT, HEIGHT - BOTTOM + 14, "start", count(this.x.low)), text(WIDTH - RIGHT, HEIGHT - BOTTOM + 14, "end", `${count(this.x.high)} ${unit}`),
      text(LEFT + 2, HEIGHT - BOTTOM - 3, "start", "better ↓"),
      make("path", { d: dots(known), class: "candidates" }),
      make("path", { d: stairs, class: "front" }),
      make("path", { d: dots(front.map((one) => [one.cost, one.rating])), class: "front-points" }),
      this.#wished, this.#taken,
    );
  }

  ring(one) {
    this.#put(this.#taken, one);
  }

  mark(one) {
    this.#put(this.#wished, one);
  }

  #put(sign, one) {
    set(sign, "visibility", one ? "visible" : "hidden");
    if (one) set(sign, "transform", `translate(${this.x.at(one.cost)} ${this.y.at(one.rating)})`);
    else sign.removeAttribute("transform");
  }
}

/** Whether blocks learn one by one, as far as the run has told. */
export function isBlockwise({ started, rated, teacher, progress }) {
  const tells = ["feature", "agreement"].some((loss) => loss in (progress?.losses ?? {}));
  return Boolean(started && (teacher || tells || rated.some(Boolean)));
}

/** How many were rated, what that took, and what the ratings say beside the size. */
function summary(rated, total, unit) {
  if (!rated.length) return "";
  const sum = (key) => rated.reduce((all, event) => all + event[key], 0);
  const [took, alone] = [sum("evaluations"), sum("one_by_one")];
  const shared = alone > took ? `, where one by one would have taken ${whole(alone)}: what candidates share was computed once` : "";
  const parts = [`${plural(sum("candidates"), "candidate")} of ${rated.length < total ? `${rated.length} of ${total}` : whole(total)} blocks are rated. That took ${plural(took, "evaluation")} of an operation${shared}.`];
  const known = rated.filter(({ correlation }) => correlation !== null);
  if (known.length) {
    const values = known.map(({ correlation }) => correlation);
    const [low, high] = [Math.min(...values), Math.max(...values)].map(signed);
    const bound = known.filter(({ correlation }) => correlation <= HIGH).map(({ block }) => block + 1);
    const where = bound.length === rated.length ? "" : ` in block${bound.length > 1 ? "s" : ""} ${enumerated(bound.map(String))}`;
    parts.push(`Kendall’s tau of rating and ${unit}: ${low === high ? low : `${low} to ${high}`} (−1: the larger a candidate, the better its rating, always; 0: its size says nothing).`);
    if (bound.length) parts.push(`So the rating says little more than the size does${where}.`);
  }
  return parts.join(" ");
}

/** "; tau −0.62" of a block. */
function tau({ correlation }) {
  return correlation === null ? "" : `; tau ${signed(correlation)}`;
}

/** How a network stands beside the one that was taken. */
function compared({ size, rating: value }, chosen) {
  const share = `${count((100 * size) / chosen.size)} % of the size of the one that was taken`;
  const apart = Math.abs(value - chosen.rating);
  return `${share}, rated ${rating(apart)} ${value > chosen.rating ? "worse" : "better"}. It was not built.`;
}

/** The candidate of a block in the network that was taken; all its units are told in one. */
function taken({ costs, ratings, units }, number) {
  return { cost: costs[number], rating: ratings[number], units };
}

/** What each layer keeps, in words. */
function layers({ choices }, units, started) {
  return choices.map((name) => {
    const labels = started.choices.find((choice) => choice.name === name)?.labels ?? [];
    return element("li", "", enumerated((units[name] ?? []).map((unit) => candidate(name, labels[unit] ?? `operation ${unit + 1}`))) || "nothing");
  });
}

/** From numbers to places between two ends; all in the middle where they are the same. */
function scale(numbers, from, to) {
  const [low, high] = numbers.reduce(([least, most], number) => [Math.min(least, number), Math.max(most, number)], [Infinity, -Infinity]);
  return { low, high, at: (number) => (high > low ? from + ((to - from) * (number - low)) / (high - low) : (from + to) / 2).toFixed(1) };
}

const rating = (value) => (value === null || value === undefined ? "—" : String(Number(value.toPrecision(3))));
const signed = (value) => value.toFixed(2).replace("-", "−");

function tell(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
