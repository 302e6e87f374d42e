// How likely is each operation on its connection, and how often was it drawn? Numbers out of `candidates_drawn`; the
// pictures are made in paths.js.

import { candidate, stateName } from "./names.js";
import { scoresOf } from "./run.js";

const MOST_POINTS = 60; // of a stream, however long the search

/**
 * The connections of a network in their order: {choice, block, from, to, units}; from and to are empty where a block has
 * one connection alone. units: [{unit, operation, name}], `operation` being what connections have in common.
 */
export function connections(started, edges) {
  const blocks = new Map(started.blocks.map(({ name }, number) => [name, number]));
  return started.choices.filter(({ name }) => edges[name]).flatMap(({ name, block, labels }) =>
    edges[name].map((units) => {
      const [source] = labels[units[0]].split(" ").slice(0, -1);
      return {
        choice: name, block: blocks.get(block) ?? block, from: source ? stateName(source) : "",
        to: source ? stateName(name.replace(/_ops$/, "").split("_").at(-1)) : "",
        units: units.map((unit) => operation(labels[unit], unit)),
      };
    }));
}

function operation(label, unit) {
  const kind = label.split(" ").at(-1);
  return { unit, operation: kind, name: candidate("", kind) };
}

/** What there is to draw anywhere: [{operation, name, tone}], in the order of the connections, a skip's tone being 0. */
export function operations(all) {
  const found = new Map(all.flatMap(({ units }) => units.map((one) => [one.operation, one.name])));
  let tone = 0;
  return [...found].map(([kind, name]) => ({ operation: kind, name, tone: kind.startsWith("skip") ? 0 : ((tone++) % 8) + 1 }));
}

/** The chances of a connection's operations after an epoch; they add up to one. */
export function chances({ choice, units }, event) {
  const shares = scoresOf(event.shares[choice]);
  const own = units.map(({ unit }) => shares[unit]);
  const sum = own.reduce((all, share) => all + share, 0);
  return own.map((share) => share / sum);
}

/** Mean chance of the likeliest operation of these connections, and what it would be if all were alike. */
export function certainty(connected, event) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return { leading: mean(connected.map((one) => Math.max(...chances(one, event)))), even: mean(connected.map(({ units }) => 1 / units.length)) };
}

/** Whether all operations are still as likely: as long as weights alone learn. */
export function isEven(all, event) {
  return all.every((one) => {
    const shares = chances(one, event);
    return Math.max(...shares) - Math.min(...shares) < 1e-9;
  });
}

/** How often each operation was drawn: operation -> {times, share of all that was drawn, even: the share of a fair draw}. */
export function drawnSoFar(all, event) {
  const found = new Map();
  let total = 0;
  for (const { choice, units } of all) {
    const times = units.map(({ unit }) => event.often[choice][unit]);
    const sum = times.reduce((one, other) => one + other, 0);
    total += sum;
    units.forEach(({ operation: kind }, index) => {
      const before = found.get(kind) ?? { times: 0, fair: 0 };
      found.set(kind, { times: before.times + times[index], fair: before.fair + sum / units.length });
    });
  }
  const share = (times) => (total ? times / total : 0);
  return new Map([...found].map(([kind, { times, fair }]) => [kind, { times, share: share(times), even: share(fair) }]));
}

/**
 * The chances of a connection over the epochs as bands, one below the other from the top, as SVG path data.
 *
 * drawn: the events up to the moment that is shown; epochs: how many there will be, the whole width.
 */
export function stream(connection, drawn, epochs, { x, y, width, height }) {
  const shown = thinned(drawn, MOST_POINTS);
  const first = drawn[0].epoch - 1;
  const columns = shown.map((event) => ({ at: x + (width * (event.epoch - first)) / epochs, shares: chances(connection, event) }));
  const all = [{ at: x, shares: columns[0].shares }, ...columns]; // nothing is known before the end of the first epoch
  const heights = all.map(({ shares }) => shares.reduce((sums, share) => [...sums, sums.at(-1) + share], [0]));
  const point = (column, level) => `${round(all[column].at)} ${round(y + height * heights[column][level])}`;
  return connection.units.map((_, band) => {
    const upper = all.map((_, column) => point(column, band));
    const lower = all.map((_, column) => point(column, band + 1)).reverse();
    return `M${[...upper, ...lower].join("L")}Z`;
  });
}

/** At most `most` of them, evenly, the first and the last among them. */
function thinned(all, most) {
  if (all.length <= most) return all;
  return Array.from({ length: most }, (_, n) => all[Math.round((n * (all.length - 1)) / (most - 1))]);
}

/** The path that has a unit of a choice at the last step: its number, or -1. */
export function pathOf({ sub_graphs: paths }, choice, unit) {
  return paths.findIndex((path) => path[choice].includes(unit));
}

/** What was chosen once drawing was over: the commit that decided it, or null. */
export function decided(model) {
  const last = model.draws.at(-1);
  return model.commits.find(({ seq, stage }) => last && seq > last.seq && stage === last.stage) ?? null;
}

const round = (number) => Math.round(number * 10) / 10;
