// The picture of a part of a library's model: a bar for each of its widths, a square for each block that may be left out.
//
// A bar's filled part is what stays of the width; behind it stands, in red, what was cut just now, and its end is green
// where something came back. What these parts are connected by is the library's own business, so no lines are drawn.

import { isOn } from "./history.js";
import { make, set } from "./svg.js";
import { plural } from "./words.js";

const [ROW, HEIGHT] = [15, 9];
const ROOM = { names: 94, track: 84, numbers: 72 };
const BARE = { names: 0, track: 110, numbers: 0 }; // for small cards, where no text could be read
const [SQUARE, STEP] = [11, 15];
const LONGEST = 16;

/** Whether a space is a library's model, whose operation choices are blocks that may be left out. */
export function isImported(started) {
  return started.space === "imported";
}

/** The blocks that a card shows as squares, as units {choice, unit, label}: itself, or those that have no card of their own. */
export function depthOf(started, number) {
  const cards = new Map(started.blocks.map(({ name }, at) => [name, at]));
  return started.choices.filter(({ granularity }) => granularity === "operation").flatMap(({ name, block, labels }) =>
    labels.map((label, unit) => ({ choice: name, unit, label })).filter(({ label }) => (cards.get(label) ?? block) === number));
}

/** {svg, bars, squares} of a card; null where there is nothing to draw. `bare`: without a text. */
export function barDrawing(started, number, choices, { bare = false } = {}) {
  const { names, track, numbers } = bare ? BARE : ROOM;
  const whole = names + track + numbers;
  const widths = choices.filter(({ granularity }) => granularity === "filter");
  const depth = depthOf(started, number);
  if (!widths.length && !depth.length) return null;
  const across = Math.floor((whole - names) / STEP);
  const top = depth.length ? Math.ceil(depth.length / across) * STEP + 3 : 0;
  const height = top + ROW * widths.length;
  const svg = make("svg", { viewBox: `0 0 ${whole} ${height}`, role: "img", class: "cell bars" });
  svg.style.maxWidth = `${1.25 * whole}px`;
  const squares = depth.map((one, index) => {
    const [x, y] = [names + STEP * (index % across), STEP * Math.floor(index / across) + 1];
    const square = make("rect", { x, y, width: SQUARE, height: SQUARE, rx: 2.5, class: "square", "data-choice": one.choice, "data-unit": one.unit, "data-name": `block ${one.label}` });
    return { ...one, square };
  });
  if (depth.length && !bare) svg.append(text(0, SQUARE, depth.length === 1 ? "whole block" : "blocks"));
  svg.append(...squares.map(({ square }) => square));
  const bars = widths.map(({ name, units }, index) => {
    const y = top + ROW * index + (ROW - HEIGHT) / 2;
    const part = (kind) => make("rect", { x: names, y, width: 0, height: HEIGHT, rx: kind === "frame" ? 2 : 0, class: kind });
    const parts = { fill: part("fill"), cut: part("cut"), back: part("back"), frame: part("frame") };
    set(parts.frame, "width", track);
    const title = make("title", {});
    const count = text(whole, y + HEIGHT - 0.5, "", "end");
    const row = make("g", {});
    const label = text(0, y + HEIGHT - 0.5, shortened(name, started.blocks[number].name));
    row.append(title, ...(bare ? [] : [label]), parts.fill, parts.cut, parts.back, parts.frame, ...(bare ? [] : [count]));
    svg.append(row);
    return { choice: name, units, left: names, track, ...parts, title, count };
  });
  return { svg, bars, squares };
}

/** Brings a card to a moment; gives {text, gone}: what it says in words, and whether the whole block is left out. */
export function paintBars({ bars, squares }, { name, on, states }) {
  const stateOf = (choice, unit) => states?.get(choice)?.[unit] ?? (on.get(choice).bits[unit] ? "on" : "off");
  for (const { square, choice, unit } of squares) set(square, "data-state", stateOf(choice, unit));
  let [kept, all] = [0, 0];
  for (const { choice, units, left, track, fill, cut, back, title, count } of bars) {
    const counts = { on: 0, cut: 0, back: 0 };
    for (let unit = 0; unit < units; unit += 1) {
      const state = stateOf(choice, unit);
      if (isOn(state)) counts.on += 1;
      if (state === "cut") counts.cut += 1;
      if (state === "back" || state === "back-now") counts.back += 1;
    }
    const long = (some) => ((track * some) / units).toFixed(1);
    set(fill, "width", long(counts.on));
    set(cut, "x", (left + Number(long(counts.on))).toFixed(1));
    set(cut, "width", long(counts.cut));
    set(back, "x", (left + Number(long(counts.on - counts.back))).toFixed(1));
    set(back, "width", long(counts.back));
    set(count, null, `${counts.on} of ${units}`);
    set(title, null, `${choice}: ${counts.on} of ${plural(units, "filter")} on`);
    kept += counts.on;
    all += units;
  }
  const own = squares.find(({ label }) => label === name);
  const gone = Boolean(own) && !isOn(own.square.dataset.state);
  const blocks = squares.filter(({ label }) => label !== name);
  const parts = [
    blocks.length && `${blocks.filter(({ square }) => isOn(square.dataset.state)).length} of ${plural(blocks.length, "block")} on`,
    all && `${kept} of ${plural(all, "filter")} on`,
  ];
  return { text: gone ? "left out as a whole" : parts.filter(Boolean).join(", "), gone };
}

/** What a screen reader hears of each bar. */
export function spokenBars({ bars }) {
  return bars.map(({ title }) => title.textContent.replace(/ on$/, ""));
}

/** A layer's name without that of the block that it is in; of a long one the end, which tells it from its neighbours. */
function shortened(name, block) {
  const own = name.startsWith(`${block}.`) ? name.slice(block.length + 1) : name;
  return own.length > LONGEST ? `…${own.slice(1 - LONGEST)}` : own;
}

function text(x, y, content, anchor = "start") {
  const made = make("text", { x, y, "text-anchor": anchor });
  made.textContent = content;
  return made;
}
