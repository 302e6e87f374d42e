// Where does everything lie in the picture of one block? Arithmetic alone: names in, coordinates out.
//
// The states of a block (a cell's inputs and nodes, a layer's input and output) stand on a line in the order in which they
// are computed. Each candidate operation is a strand: an arc from the state that it reads to the one that it feeds, those
// of the same two states side by side. What reads an input of the cell arches above the line, all else below it.

import { candidate, prefixOf, stateName } from "./names.js";

const GAP = 74; // between two neighbouring states
const STRAND = 4.6; // between two neighbouring strands
const LIFT = 15; // of an arc, for each state that it passes
const NODE = { width: 40, height: 18 };
const MARGIN = 8;
const WIDTHS = ["mid", "inner", "heads", "places"]; // filter choices within a candidate

/**
 * The picture of a block: {width, height, nodes, strands}.
 *
 * nodes: {id, label, x, y, width, height, choice}, x and y being their middle and `choice` the filter choice of their
 * channels, if they have one. strands: {choice, unit, inner, feeds, name, free, path, bud}: an operation choice and a
 * unit of it, the filter choices of the widths inside and behind it, whether it is free of weights, its line as SVG path
 * data, and the middle of it.
 */
export function blockGraph(choices) {
  const operations = choices.filter((choice) => choice.granularity === "operation");
  if (!operations.length) return null;
  const filters = new Map(choices.filter((choice) => choice.granularity === "filter").map((choice) => [choice.name, choice]));
  const edges = operations.flatMap((choice) => choice.labels.map((label, unit) => edge(choice.name, label, unit, filters)));
  const order = states(edges);
  const places = new Map(order.map((id, index) => [id, MARGIN + NODE.width / 2 + index * gap(order)]));
  const bundles = Map.groupBy(edges, ({ from, to }) => `${from} ${to}`);
  const arcs = [...bundles.values()].flatMap((bundle) => bundle.map((one, index) => ({ ...one, ...arc(one, index, order, places) })));
  const above = Math.max(NODE.height / 2, ...arcs.map(({ top }) => top));
  const below = Math.max(NODE.height / 2, ...arcs.map(({ top }) => -top));
  const middle = above + MARGIN;
  return {
    width: places.get(order.at(-1)) + NODE.width / 2 + MARGIN,
    height: middle + below + MARGIN,
    nodes: order.map((id) => ({ id, label: nodeLabel(id), x: places.get(id), y: middle, ...NODE, choice: nodeChoice(id, operations, filters) })),
    strands: arcs.map((one) => strand(one, middle)),
  };
}

/** A chain's layer has two states only, so they may stand further apart. */
const gap = (order) => (order.length === 2 ? 2 * GAP : GAP);

function edge(choice, label, unit, filters) {
  const stem = choice.replace(/_ops$/, "");
  const words = label.split(" ");
  const prefix = prefixOf(choice, label);
  const [from, to] = words.length > 1 ? [words[0], stem.split("_").at(-1)] : ["in", "out"];
  return {
    choice, unit, from, to, name: candidate(choice, label),
    free: /(skip|skip_connect|pool_\dx\d)$/.test(label),
    inner: WIDTHS.map((width) => `${prefix}${width}`).filter((name) => filters.has(name)),
    feeds: filters.has(stem) ? stem : null,
  };
}

/** Inputs first, then nodes, as they are numbered. */
function states(edges) {
  const names = [...new Set(edges.flatMap(({ from, to }) => [from, to]))];
  const rank = (name) => (name === "in" || name.startsWith("s") ? 0 : 1000) + Number(/\d+$/.exec(name)?.[0] ?? 0);
  return names.sort((a, b) => rank(a) - rank(b));
}

/** The ends of an arc and how far it rises; strands of a bundle rise one above the other and end side by side. */
function arc({ from, to }, index, order, places) {
  const passed = order.indexOf(to) - order.indexOf(from);
  const side = from === "in" || from.startsWith("s") ? 1 : -1;
  const rise = NODE.height / 2 + 5 + LIFT * (passed - 1) * 1.7 + STRAND * index;
  const shift = Math.min(13, 3 + 1.7 * index);
  return { x0: places.get(from) + NODE.width / 2 - 15 + shift, x1: places.get(to) - NODE.width / 2 + 15 - shift, side, rise, top: side * (rise + 2) };
}

function strand({ choice, unit, inner, feeds, name, free, x0, x1, side, rise }, middle) {
  const start = middle - (side * NODE.height) / 2;
  // A cubic Bézier curve reaches three quarters of the height of its two inner points.
  const peak = start - side * ((rise - NODE.height / 2) * 4) / 3;
  const lean = (x1 - x0) * 0.22;
  const path = `M${round(x0)} ${round(start)}C${round(x0 + lean)} ${round(peak)} ${round(x1 - lean)} ${round(peak)} ${round(x1)} ${round(start)}`;
  return { choice, unit, inner, feeds, name, free, path, bud: [round((x0 + x1) / 2), round(middle - side * rise)] };
}

function nodeLabel(id) {
  return id === "in" || id === "out" ? id : stateName(id);
}

/** c0_n1 belongs to node n1 of cell 0; a layer's output to the one group of widths that its block has. */
function nodeChoice(id, operations, filters) {
  const cell = operations[0].name.split("_")[0];
  const name = `${cell}_${id}`;
  if (filters.has(name)) return name;
  return id === "out" ? ([...filters.keys()].find((key) => /^width\d+$/.test(key)) ?? null) : null;
}

const round = (number) => Math.round(number * 10) / 10;
