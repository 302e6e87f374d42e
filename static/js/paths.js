// How sub-graphs are drawn by lot: which paths the last step took, how the lot sharpens, and how often each operation was
// drawn. Where a colour stands for an operation it fills an area; where it stands for a path it is a line, with dashes of
// its own. The same events give the same markup, whether they were watched or replayed.

import { certainty, chances, connections, decided, drawnSoFar, isEven, operations, pathOf, stream } from "./chances.js";
import { element } from "./elements.js";
import { blockGraph } from "./graph.js";
import { blockName } from "./names.js";
import { choicesOf, drawing } from "./network.js";
import { Player } from "./player.js";
import { unitsOn } from "./run.js";
import { make, set } from "./svg.js";
import { percent, plural, whole } from "./words.js";

const [COLOURS, DASHES] = [5, 4]; // of paths, in the style sheet
const TABLE = { width: 214, height: 30, gap: 6, left: 19, top: 13 }; // of streams; its height is a row's
const ALONE = { width: 214, height: 40, gap: 0, left: 0, top: 0 };
const LARGE = { width: 260, height: 64 };

/** Fills the parts of `place` that stand in the page; `show(model, isLive)` brings them up to date. */
export class Paths {
  #parts;
  #player;
  #model = null;
  #isLive = false;
  #edges = null; // what the picture was built for: the connections, as the first event told them
  #all = [];
  #blocks = [];
  #counts = [];
  #inside = null;
  #shown = null;

  constructor(place) {
    const part = (name) => place.querySelector(`[data-part="${name}"]`);
    const names = ["empty", "shown", "lines", "counts", "blocks", "inside"];
    this.#parts = Object.fromEntries(names.map((name) => [name, part(name)]));
    this.#player = new Player({ slider: part("epoch"), play: part("play"), follow: part("follow"), text: part("text") }, () => this.#draw());
    this.#parts.inside.addEventListener("keydown", (event) => event.key === "Escape" && this.#look(null));
  }

  /** `isLive`: whether more may be drawn. */
  show(model, isLive) {
    this.#model = model;
    this.#isLive = isLive;
    this.#draw();
  }

  #draw() {
    const { draws, started } = this.#model;
    this.#parts.shown.hidden = !draws.length;
    this.#parts.empty.hidden = draws.length > 0;
    set(this.#parts.empty, null, this.#isLive
      ? "The first paths are being drawn. What they were is shown here when the first epoch is over."
      : "It ended before its first epoch was over, so nothing is known of the paths that were drawn.");
    if (!draws.length) return;
    const key = JSON.stringify([draws[0].edges, draws[0].sub_graphs.length, started.seq]);
    if (key !== this.#edges) this.#build(key);
    const over = decided(this.#model);
    this.#player.show(draws.length, this.#isLive && !over);
    const { index } = this.#player;
    if (this.#shown && this.#shown.event === draws[index] && this.#shown.last === draws.at(-1) && this.#shown.over === over) return;
    this.#shown = { event: draws[index], last: draws.at(-1), over };
    const at = { event: draws[index] ?? null, drawn: draws.slice(0, index + 1), epochs: this.#epochs(), over: index === draws.length - 1 ? over : null };
    this.#player.say(words(this.#all, at));
    const counts = at.event && drawnSoFar(this.#all, at.event);
    this.#counts.forEach((row) => paintCount(row, counts));
    this.#blocks.forEach((block) => paint(block, at));
    this.#inside?.rows.forEach((row) => paintConnection(row, at));
  }

  /** How many epochs draw, the whole width of a stream. */
  #epochs() {
    const { draws, started } = this.#model;
    return Math.max(started.stages[draws[0].stage]?.epochs ?? 0, draws.at(-1).epoch - draws[0].epoch + 1);
  }

  #build(key) {
    const { draws, started } = this.#model;
    this.#edges = key;
    this.#shown = null;
    this.#all = connections(started, draws[0].edges);
    this.#parts.lines.replaceChildren(...draws[0].sub_graphs.map((_, number) => element("li", "", sample(number), pathName(number))));
    const tones = new Map(operations(this.#all).map((one) => [one.operation, one.tone]));
    for (const { units } of this.#all) units.forEach((one) => (one.tone = tones.get(one.operation)));
    this.#counts = operations(this.#all).map(countRow);
    this.#parts.counts.replaceChildren(...this.#counts.map(({ row }) => row));
    const numbers = [...new Set(this.#all.map(({ block }) => block))];
    this.#blocks = numbers.map((number) => card(started, number, this.#all.filter(({ block }) => block === number), () => this.#look(number)));
    this.#parts.blocks.replaceChildren(...this.#blocks.map(({ place }) => place));
    this.#look(null);
  }

  /** Looks into a block, or away from it for null; the block that is looked into, too. */
  #look(number) {
    const before = this.#inside?.number ?? null;
    const { inside } = this.#parts;
    const block = this.#blocks.find((one) => one.number === number && number !== before);
    this.#inside = null;
    inside.hidden = !block;
    inside.replaceChildren();
    for (const { button, number: own } of this.#blocks) button.setAttribute("aria-expanded", String(own === block?.number));
    if (!block) {
      this.#blocks.find((one) => one.number === before)?.button.focus();
      return;
    }
    const title = element("h3", "", `Chances in ${block.name}`);
    title.tabIndex = -1;
    const close = element("button", "btn btn-quiet btn-sm", "Close");
    close.type = "button";
    close.addEventListener("click", () => this.#look(null));
    const rows = block.connections.map((one) => connectionRow(one));
    inside.append(element("div", "head", title, close), element("div", "connections", ...rows.map(({ place }) => place)));
    this.#inside = { number, rows };
    this.#shown = null;
    this.#draw();
    title.focus();
  }
}

/** What the moment amounts to, in a sentence or two. */
function words(all, { event, epochs, over }) {
  if (!event) return "Before the first epoch: nothing was drawn yet.";
  const when = `Epoch ${event.epoch} of ${epochs}`;
  const end = over ? " Drawing is over: look into a block to see what was chosen." : "";
  if (isEven(all, event)) return `${when}: at first only weights learn, and every operation is as likely as any other.${end}`;
  const { leading, even } = certainty(all, event);
  return `${when}: on average the likeliest operation of a connection has a chance of ${percent(leading, 0)}; if all were alike it would be ${percent(even, 0)}.${end}`;
}

// -- how often each operation was drawn ------------------------------------------------------------------------------

function countRow({ operation, name, tone }) {
  const [fill, mark, value] = [element("i", `tone-${tone}`), element("b", ""), element("span", "value")];
  mark.title = "as often as it would be if all were alike";
  const row = element("li", "", element("span", `key tone-${tone}`), element("span", "name", name), element("span", "track", fill, mark), value);
  return { operation, row, fill, mark, value };
}

/** `counts` is null before anything was drawn. The longest bar is a half, or what is needed. */
function paintCount({ operation, fill, mark, value }, counts) {
  const own = counts?.get(operation) ?? { times: 0, share: 0, even: 0 };
  const longest = Math.max(0.5, ...[...(counts?.values() ?? [])].map(({ share }) => share));
  const long = (share) => `${((100 * share) / longest).toFixed(1)}%`;
  fill.style.width = long(own.share);
  mark.style.left = long(own.even);
  mark.hidden = !counts;
  set(value, null, counts ? `${percent(own.share, 0)}, ${whole(own.times)} times` : "not yet");
}

// -- a block: its paths, and the chances of its connections ----------------------------------------------------------

function card(started, number, own, onPick) {
  const name = blockName(started.blocks[number].name);
  const button = element("button", "pick", name.charAt(0).toUpperCase() + name.slice(1));
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", onPick);
  const share = element("span", "share");
  const picture = drawing(blockGraph(choicesOf(started, number)));
  const strands = picture.strands.map((strand) => {
    const title = make("title", {});
    strand.reach.append(title);
    for (const key of ["data-choice", "data-unit"]) strand.reach.removeAttribute(key); // it has no history to tell
    return { ...strand, title };
  });
  const table = matrix(own);
  const place = element("section", "block", element("header", "", element("h3", "", button), share), picture.svg, table.svg);
  return { number, name, button, share, connections: own, place, arcs: picture.svg, strands, table };
}

function paint({ name, share, connections: own, arcs, strands, table }, at) {
  const { event } = at;
  for (const strand of strands) {
    const path = event ? pathOf(event, strand.choice, strand.unit) : -1;
    set(strand.line, "class", path < 0 ? "strand" : `strand ${lineClass(path)}`);
    set(strand.line, "data-state", path < 0 ? "off" : "on");
    set(strand.title, null, path < 0 ? `${strand.name}: in no path of this step` : `${strand.name}: ${pathName(path)}`);
  }
  set(arcs, "aria-label", `${name}. ${event ? event.sub_graphs.map((_, path) => taken(strands, event, path)).join("; ") : "Nothing was drawn yet"}.`);
  set(share, null, event ? `likeliest ${percent(certainty(own, event).leading, 0)}` : "");
  share.title = "mean chance of the likeliest operation of its connections";
  table.streams.forEach((one) => paintStream(one, at));
  set(table.svg, "aria-label", `Chances in ${name}: ${own.map((one) => spoken(one, event)).join("; ")}.`);
}

function taken(strands, event, path) {
  return `${pathName(path)} takes ${strands.filter(({ choice, unit }) => pathOf(event, choice, unit) === path).map(({ name }) => name).join(", ")}`;
}

function spoken({ from, to, ...connection }, event) {
  const where = from ? `${from} to ${to}: ` : "";
  if (!event) return `${where}not known yet`;
  const own = chances(connection, event);
  const best = own.indexOf(Math.max(...own));
  return `${where}${connection.units[best].name} ${percent(own[best], 0)}`;
}

/** The streams of a block's connections: a row for each state that they feed, a column for each that they read. */
function matrix(own) {
  const [columns, rows] = [[...new Set(own.map(({ from }) => from))], [...new Set(own.map(({ to }) => to))]];
  const isAlone = own.length === 1;
  const { width: across, height, gap, left, top } = isAlone ? ALONE : TABLE;
  const width = (across - left + gap) / columns.length - gap;
  const svg = make("svg", { viewBox: `0 0 ${across} ${top + rows.length * (height + gap) - gap}`, role: "img", class: "cell streams" });
  svg.style.maxWidth = `${1.4 * across}px`;
  if (!isAlone) {
    svg.append(...columns.map((from, column) => label(left + column * (width + gap) + width / 2, 9, from, "middle")));
    svg.append(...rows.map((to, row) => label(0, top + row * (height + gap) + height / 2 + 3.5, to, "start")));
  }
  const streams = own.map((connection) => {
    const [column, row] = [columns.indexOf(connection.from), rows.indexOf(connection.to)];
    return streamIn(svg, connection, { x: left + column * (width + gap), y: top + row * (height + gap), width, height });
  });
  return { svg, streams };
}

function label(x, y, content, anchor) {
  const made = make("text", { x, y, "text-anchor": anchor });
  made.textContent = content;
  return made;
}

function streamIn(svg, connection, place) {
  const bands = connection.units.map(({ tone }) => make("path", { class: `band tone-${tone}` }));
  svg.append(make("rect", { ...place, class: "bed" }), ...bands);
  return { connection, bands, place };
}

function paintStream({ connection, bands, place }, { drawn, epochs }) {
  const shapes = drawn.length ? stream(connection, drawn, epochs, place) : [];
  bands.forEach((band, number) => set(band, "d", shapes[number] ?? ""));
}

// -- inside a block ---------------------------------------------------------------------------------------------------

/** One connection at large, its operations in the order of the bands. */
function connectionRow(connection) {
  const svg = make("svg", { viewBox: `0 0 ${LARGE.width} ${LARGE.height}`, preserveAspectRatio: "none", role: "img", class: "streams large" });
  const large = streamIn(svg, connection, { x: 0, y: 0, ...LARGE });
  const items = connection.units.map(({ unit, name, tone }) => {
    const [tags, chance, times] = [element("span", "marks"), element("span", "value"), element("span", "value")];
    const row = element("li", "", element("span", `key tone-${tone}`), element("span", "name", name, tags), chance, times);
    return { unit, row, tags, chance, times };
  });
  const title = connection.from ? `${connection.from} → ${connection.to}` : "Its one connection";
  const list = element("ul", "", ...items.map(({ row }) => row));
  return { connection, place: element("figure", "", element("figcaption", "", element("h4", "", title)), svg, list), svg, large, items };
}

function paintConnection({ connection, svg, large, items }, at) {
  const { event, over } = at;
  paintStream(large, at);
  set(svg, "aria-label", `Chances over the epochs. ${spoken(connection, event)}.`);
  const own = event ? chances(connection, event) : null;
  const kept = over?.kept[connection.choice];
  const bits = kept && unitsOn(kept, Math.max(...connection.units.map(({ unit }) => unit)) + 1);
  items.forEach(({ unit, row, tags, chance, times }, number) => {
    const path = event ? pathOf(event, connection.choice, unit) : -1;
    const marks = [path >= 0 && element("span", `tag ${lineClass(path)}`, pathName(path)), bits?.[unit] && element("span", "tag chosen", "✓ chosen")];
    tags.replaceChildren(...marks.filter(Boolean));
    row.classList.toggle("chosen", Boolean(bits?.[unit]));
    set(chance, null, own ? percent(own[number], 0) : "");
    set(times, null, event ? plural(event.often[connection.choice][unit], "time") : "not yet");
  });
}

// -- paths ------------------------------------------------------------------------------------------------------------

/** 0 -> "path A". */
function pathName(number) {
  return `path ${String.fromCharCode(65 + number)}`;
}

function lineClass(number) {
  return `path-${number % COLOURS} dash-${number % DASHES}`;
}

function sample(number) {
  const svg = make("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" });
  svg.append(make("path", { d: "M2 8C9 2 21 2 28 8", class: `strand ${lineClass(number)}`, "data-state": "on" }));
  return svg;
}
