// Blocks that are rated one by one: a panel each with its candidates, and which of them together make a network of a size.
//
// Drawn from what `block_rated` and `paths_found` say; a panel is made once, and only its mark moves with the slider.

import { element } from "./elements.js";
import { candidate, generations, turn } from "./names.js";
import { among, beside, FLATTERED, isBlockwise, isFlattered, rating, undominated, unrated } from "./ratings.js";
import { make, set } from "./svg.js";
import { amount, count, enumerated, metricUnit, plural, whole } from "./words.js";

const [WIDTH, HEIGHT] = [260, 150];
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 8, 10, 26]; // room beside the points
const FEW = 300; // dots that hardly cover each other
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

  /** state: the frame of the feed, with `state` and `finished`. */
  show(model, state) {
    const { started } = model;
    this.#model = model;
    this.#place.hidden = !isBlockwise(model);
    if (this.#place.hidden) return;
    const rated = model.rated.filter(Boolean);
    const total = rated[0]?.blocks ?? new Set(started.stages.map(({ name }) => turn(name)?.block)).size;
    while (this.#panels.length > total) this.#panels.pop().item.remove();
    while (this.#panels.length < total) this.#add(this.#panels.length + 1);
    this.#panels.forEach((panel, number) => panel.fill(model.rated[number] ?? null, doing(model, state, number), started, standing(model, number, this.#place.dataset.ends)));
    tell(this.#part("summary"), summary(model, rated, total));
    if (this.#paths !== model.paths) this.#found(model);
  }

  /** Moves the slider to the largest network that is no larger than this, or to the smallest. */
  wish(size) {
    if (!this.#networks.length) return;
    const place = this.#networks.findLastIndex((network) => network.size <= size);
    this.#slider.value = Math.max(0, place);
    this.#mark(place < 0 ? "No network is that small; the smallest: " : "");
  }

  get #slider() {
    return this.#place.querySelector("input");
  }

  #part(name) {
    return this.#place.querySelector(`[data-${name}]`);
  }

  #parts(name) {
    return this.#place.querySelectorAll(`[data-${name}]`);
  }

  #add(number) {
    const panel = new Panel(number);
    this.#panels.push(panel);
    this.#part("panels").append(panel.item);
  }

  /** The networks are known, or no longer so. */
  #found(model) {
    this.#paths = model.paths;
    const { networks, chosen } = model.paths ?? { networks: [], chosen: null };
    for (const part of this.#parts("found")) part.hidden = !chosen;
    for (const part of this.#parts("wish")) part.hidden = !networks.length;
    this.#panels.forEach((panel, number) => panel.take(chosen && taken(chosen, number)));
    if (!networks.length) {
      [this.#networks, this.#slider.max] = [[], 0];
      this.#slider.removeAttribute("aria-valuetext");
      tell(this.#part("words"), "");
      this.#panels.forEach((panel, number) => panel.wish(null, chosen && taken(chosen, number), widths(model.rated) > 1));
      return;
    }
    const isTaken = { ...chosen, isTaken: true };
    this.#networks = [...networks.filter(({ size }) => size !== chosen.size), isTaken].sort((a, b) => a.size - b.size);
    this.#slider.max = this.#networks.length - 1;
    this.#slider.value = this.#networks.indexOf(isTaken);
    this.#mark();
  }

  /** `before`: words in front of those about the network. */
  #mark(before = "") {
    const network = this.#networks[Number(this.#slider.value)];
    const { started, paths, rated } = this.#model;
    const estimated = started.metric === "latency_ms" ? " as estimated" : "";
    const what = `${before}${whole(network.size)} ${metricUnit(started.metric)}${estimated}, summed rating ${rating(network.rating)}`;
    const words = network.isTaken ? `${what}: ${chosenWords(paths, started.target)}` : `${what}, for a target of ${whole(network.target)}: ${compared(network, paths.chosen)}`;
    tell(this.#part("words"), words);
    this.#slider.setAttribute("aria-valuetext", words);
    const hasWidths = widths(rated) > 1;
    this.#panels.forEach((panel, number) => {
      const one = taken(network, number);
      panel.wish(one, one, hasWidths);
    });
  }
}

/** One block. */
class Panel {
  item = element("li", "");
  #event = undefined;
  #started = null;
  #picture = null;
  #again = element("p", "again");
  #note = element("p", "");
  #layers = element("ol", "");

  constructor(number) {
    this.title = `Block ${number}`;
  }

  /** Draws what is known of it: its rated candidates, or in words why there are none; `words` say what it is going through,
   * `stands` what the network has of it all the same. */
  fill(event, { words, isNow }, started, stands = null) {
    if (isNow) this.item.className = "now";
    else this.item.removeAttribute("class");
    tell(this.#again, event ? words : "");
    this.#again.hidden = !this.#again.textContent;
    if (this.#event === event && event) return;
    [this.#event, this.#started] = [event, started];
    const head = element("h3", "", this.title);
    if (!event) {
      this.#picture = null;
      const parts = [head, element("p", "empty-panel", words), ...(stands ? unchosen(stands, started) : [])];
      if (this.item.textContent !== parts.map(({ textContent }) => textContent).join("")) this.item.replaceChildren(...parts);
      return;
    }
    this.#picture = new Picture(this.title, event, started.metric);
    const about = element("p", "", `${plural(event.candidates, "candidate")} of ${plural(event.choices.length, "layer")}${tau(event)}${teacher(event, started)}`);
    this.item.replaceChildren(head, about, this.#again, this.#picture.svg, this.#note, this.#layers);
    tell(this.#note, "");
    this.#layers.replaceChildren();
  }

  /** The candidate that the network which was taken has of it, ringed; null for none. */
  take(one) {
    this.#picture?.ring(one);
  }

  /** Marks a candidate, and says what the candidate `told` consists of, {cost, rating, units, width}; nothing for null. */
  wish(marked, told, hasWidths = false) {
    this.#picture?.mark(marked);
    if (!this.#event) return;
    const channels = told && hasWidths ? ` with ${share(told.width)} of its channels` : "";
    tell(this.#note, told ? `${amount(told.cost)} ${metricUnit(this.#started.metric)}${channels}, rated ${rating(told.rating)}:` : "");
    this.#layers.replaceChildren(...(told ? layers(this.#event, told.units, this.#started) : []));
  }
}

/** The candidates of a block by cost and rating. */
class Picture {
  svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  #taken = make("circle", { r: 5.5, class: "taken", visibility: "hidden" });
  #wished = make("path", { d: "M0 -5.5L5.5 0L0 5.5L-5.5 0Z", class: "wished", visibility: "hidden" });

  constructor(title, { points, front: fronts, candidates }, metric) {
    const known = points.filter(([cost, value]) => cost !== null && value !== null);
    const [costs, ratings] = [0, 1].map((axis) => [...known.map((point) => point[axis]), ...fronts.map((one) => [one.cost, one.rating][axis])]);
    this.x = scale(costs, LEFT, WIDTH - RIGHT);
    this.y = scale(ratings, HEIGHT - BOTTOM, TOP);
    const front = undominated(fronts); // of all widths
    const dots = (pairs) => pairs.map(([cost, value]) => `M${this.x.at(cost)} ${this.y.at(value)}h0`).join("");
    const stairs = front.map(({ cost, rating: value }, place) => `${place ? `H${this.x.at(cost)}V` : `M${this.x.at(cost)} `}${this.y.at(value)}`).join("");
    const text = (x, y, anchor, words) => {
      const made = make("text", { x, y, "text-anchor": anchor });
      set(made, null, words);
      return made;
    };
    const better = text(0, 0, "middle", "← better"); // turned: down
    set(better, "transform", `translate(${LEFT - 11} ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`);
    const [unit, size] = [metricUnit(metric), metric === "latency_ms" ? whole : count];
    this.svg.setAttribute("aria-label", `${title}: ${plural(candidates, "candidate")}, ${amount(this.x.low)} to ${amount(this.x.high)} ${unit}, rated ${rating(this.y.low)} (best) to ${rating(this.y.high)}; of ${whole(front.length)} none is both smaller and better.`);
    this.svg.append(
      make("path", { d: `M${LEFT - 4} ${TOP}V${HEIGHT - BOTTOM + 4}H${WIDTH - RIGHT}`, class: "axis" }),
      text(LEFT - 7, TOP + 4, "end", rating(this.y.high)), text(LEFT - 7, HEIGHT - BOTTOM, "end", rating(this.y.low)),
      text(LEFT, HEIGHT - BOTTOM + 14, "start", size(this.x.low)), text(WIDTH - RIGHT, HEIGHT - BOTTOM + 14, "end", `${size(this.x.high)} ${unit}`),
      better,
      make("path", { d: dots(known), class: known.length > FEW ? "candidates" : "candidates few" }),
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

/** What a block is going through: {words, isNow}; of one that is rated already only that it learns again. */
function doing({ stage, phase, rating: isBeingRated, rated, paths }, { state, finished }, number) {
  const event = rated[number];
  const isOver = finished || paths || !["data", "search", "teacher"].includes(phase);
  const isDue = phase === "search" && !isOver && stage && turn(stage.name)?.block === number && event?.stage !== stage.stage;
  if (!isDue) return { words: event ? "" : isOver ? "was not rated" : "not rated yet", isNow: false };
  const isNow = ["running", "stopping"].includes(state);
  if (!event) return { words: isNow ? (isBeingRated ? "being rated" : "training now") : "waits to go on", isNow };
  const name = `teacher ${turn(stage.name).teacher}`;
  const what = !isNow ? `Waits to go on learning from ${name}` : isBeingRated ? `Being rated again, by ${name}` : `Learning again from ${name}`;
  return { words: `${what}; these are the ratings by the teacher before`, isNow };
}

/** What the network has of a block that was not rated: {cost, units, choices}; null where there is none, or a rating chose it.
 * `ends`: after which layers blocks end, "2 5 6"; where that is not told, nothing is known of single layers. */
function standing({ started, rated, paths }, number, ends) {
  if (!paths || rated[number]) return null;
  const borders = [0, ...(ends ? ends.split(" ").map(Number) : [])];
  const isOwn = ({ granularity, block }) => granularity === "operation" && block > borders[number] && block <= borders[number + 1]; // 0 is the stem
  return { ...taken(paths.chosen, number), choices: started.choices.filter(isOwn).map(({ name }) => name) };
}

/** The same in words. */
function unchosen({ cost, units, choices }, started) {
  const note = element("p", "", `In the network stands, chosen by its size and not by a rating, ${amount(cost)} ${metricUnit(started.metric)}${choices.length ? ":" : "."}`);
  return choices.length ? [note, element("ol", "", ...layers({ choices }, units, started))] : [note];
}

/** How many were rated, what that took, and what the ratings say beside the size. */
function summary({ started, paths, rated: all }, rated, total) {
  const unit = metricUnit(started.metric);
  const ended = paths ? unrated(paths, all) : "";
  if (!rated.length) return ended;
  const sum = (key) => rated.reduce((before, event) => before + event[key], 0);
  const [took, alone, candidates] = [sum("evaluations"), sum("one_by_one"), sum("candidates")];
  const shared = alone > took ? `, where one by one would have taken ${whole(alone)}: what candidates share was computed once` : "";
  const of = rated.length < total ? `${rated.length} of ${plural(total, "block")}` : plural(total, "block");
  const parts = [ended, `${plural(candidates, "candidate")} of ${of} ${candidates === 1 ? "is" : "are"} rated. That took ${plural(took, "evaluation")} of an operation${shared}.`];
  if (widths(all) > 1) parts.push("Sizes of candidates are those with all other channels there.");
  if (started.metric === "latency_ms") parts.push("Times here are estimates, fitted to measurements of this device; the network that is taken is measured itself.");
  const known = rated.filter(({ correlation }) => correlation !== null);
  if (known.length) {
    const values = known.map(({ correlation }) => correlation);
    const [low, high] = [Math.min(...values), Math.max(...values)].map(signed);
    const bound = known.filter(({ correlation }) => correlation <= HIGH).map(({ block }) => block + 1);
    const where = bound.length === rated.length ? "" : ` in block${bound.length > 1 ? "s" : ""} ${enumerated(bound.map(String))}`;
    parts.push(`Kendall’s tau of rating and ${unit}: ${low === high ? low : `${low} to ${high}`} (−1: the larger a candidate, the better its rating, always; 0: its size says nothing).`);
    if (bound.length) parts.push(`So the rating says little more than the size does${where}.`);
  }
  return parts.filter(Boolean).join(" ");
}

/** "; tau −0.62" of a block. */
function tau({ correlation }) {
  return correlation === null ? "" : `; tau ${signed(correlation)}`;
}

/** "; by teacher 2" where there are several. */
function teacher({ stage }, started) {
  return generations(started) > 1 ? `; by teacher ${turn(started.stages[stage]?.name)?.teacher ?? 1}` : "";
}

/** How many widths the rated candidates have. */
function widths(rated) {
  return new Set(rated.flatMap((event) => event?.front.map(({ width }) => width ?? 1) ?? [])).size;
}

/** "half" of the channels. */
function share(width = 1) {
  return { 0.5: "half", 1: "all" }[width] ?? `${count(100 * width)} %`;
}

/** Why the network that was taken is the one. */
function chosenWords({ chosen, networks }, target) {
  const why = networks.some((network) => isFlattered(network, chosen)) ? ` A smaller one is rated better, but ${FLATTERED}.` : "";
  return `the network that was taken, ${among(chosen, target)}.${why} Move the slider, and all blocks show what other targets would have taken.`;
}

/** How a network stands beside the one that was taken. */
function compared(network, chosen) {
  const size = `${count((100 * network.size) / chosen.size)} % of the size of the one that was taken`;
  const apart = rating(Math.abs(network.rating - chosen.rating));
  const stands = { "-1": `rated ${apart} better`, 0: "rated alike", 1: `rated ${apart} worse` }[beside(network.rating, chosen.rating)];
  return `${size}, ${stands}. It was not built${isFlattered(network, chosen) ? `: ${FLATTERED}` : ""}.`;
}

/** The candidate of a block in the network that was taken; all its units are told in one. */
function taken({ costs, ratings, units, widths: shares }, number) {
  return { cost: costs[number], rating: ratings[number], units, width: shares?.[number] };
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

const signed = (value) => value.toFixed(2).replace("-", "−");

function tell(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
