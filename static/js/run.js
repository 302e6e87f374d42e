// What is known about a run? Events in, a plain model out. Touches neither page, network nor clock.
//
// The events are kept so that a rewind (a resumed attempt says the last part again) can be rebuilt from what stays.
// Only `progress` events are thinned in very long runs; commits, epochs and everything else are kept as they came.

import { furtherTarget, generation, lineName } from "./names.js";
import { resumed, sentence, stageName } from "./sentences.js";

const MOST_PROGRESS = 2000;
const MOST_LOG = 200;
const ESTIMATES = 40; // of the last progress: how far they differ is how sure the time left is

/** A run that has said nothing yet. `charts` is the table of webapp/charts.py. */
export function emptyRun(charts) {
  return { charts, events: [], lastSeq: 0, model: emptyModel(charts) };
}

/** Takes events in rising order; those already known are ignored. */
export function add(run, events) {
  for (const event of events) {
    if (event.seq <= run.lastSeq) continue;
    run.events.push(event);
    run.lastSeq = event.seq;
    extend(run.model, run.charts, event);
  }
  if (run.model.progressCount > MOST_PROGRESS) {
    run.events = thinned(run.events);
    rebuild(run);
  }
}

/** Forgets everything after `seq`. */
export function rewind(run, seq) {
  run.events = run.events.filter((event) => event.seq <= seq);
  run.lastSeq = Math.min(run.lastSeq, seq);
  rebuild(run);
}

/** Which units of a packed choice are on: one byte each, 1 or 0. */
export function unitsOn(base64, units) {
  const bytes = atob(base64);
  return Uint8Array.from({ length: units }, (_, unit) => (bytes.charCodeAt(unit >> 3) >> (7 - (unit & 7))) & 1);
}

/** Scores of a packed choice, in [0, 1]; null where none were told. */
export function scoresOf(base64) {
  return base64 ? Array.from(atob(base64), (byte) => byte.charCodeAt(0) / 255) : null;
}

/** Seconds left, from the fastest and the slowest that the last estimates foresaw: [low, high]; null where none is known. */
export function etaRange({ etaSeconds, fraction, totals }) {
  if (etaSeconds === null) return null;
  const left = totals.map((total) => total * (1 - fraction));
  return [Math.min(etaSeconds, ...left), Math.max(etaSeconds, ...left)];
}

function emptyModel(charts) {
  return {
    attempt: 1, data: null, dataProgress: null, started: null, stage: null, progress: null, epoch: null, draws: [], commits: [], retrain: null,
    result: null, failure: null, endedIn: null, finished: null, phase: "waiting", fraction: 0, etaSeconds: null,
    totals: [], trail: [], teacher: null, hasFirstTeacher: false, rating: null, rated: [], begun: new Set(), closed: new Set(), paths: null, alternatives: null, boundaries: [], log: [], progressCount: 0, changed: new Set(charts.map((chart) => chart.id)),
    traces: Object.fromEntries(charts.map((chart) => [chart.id, new Map()])),
  };
}

function rebuild(run) {
  run.model = emptyModel(run.charts);
  for (const event of run.events) extend(run.model, run.charts, event);
}

function extend(model, charts, event) {
  model.rating = null; // it is over when anything else is said
  note[event.kind]?.(model, event);
  for (const chart of charts) {
    for (const series of chart.series) {
      if (series.event === event.kind) plot(model, chart.id, series, event);
    }
  }
  if (event.attempt > model.attempt) {
    model.attempt = event.attempt;
    model.log.push({ seq: event.seq, ...resumed(event.attempt) });
  }
  const said = sentence(event, model);
  if (said) model.log.push({ seq: event.seq, ...said });
  while (model.log.length > MOST_LOG) model.log.shift();
}

const note = {
  data_progress: (model, event) => Object.assign(model, event.what === "rating" ? { rating: event } : { dataProgress: event, phase: "data" }),
  data_ready: (model, event) => Object.assign(model, { data: event, dataProgress: null, phase: "data" }),
  search_started: (model, event) => Object.assign(model, { started: event, phase: "search" }),
  stage_started: (model, event) => {
    const at = model.epoch?.epoch ?? 0;
    Object.assign(model, { stage: event, phase: "search" });
    if (at > 0) boundary(model, at, stageName(event, model));
  },
  progress: (model, event) => {
    model.progressCount += 1;
    model.begun.add(event.stage);
    Object.assign(model, { progress: event, phase: "search", ...advance(model, event) });
  },
  epoch_finished: (model, event) => {
    model.epoch = event;
    model.begun.add(event.stage);
    const isWhole = model.stage?.blocks === model.started?.blocks.length;
    if (isWhole) model.trail.push({ size: event.size, accuracy: event.validation.accuracy, epoch: event.epoch });
  },
  stage_finished: (model, event) => model.closed.add(event.stage),
  candidates_drawn: (model, event) => model.draws.push(event),
  block_rated: (model, event) => (model.rated[event.block] = event),
  paths_found: (model, event) => Object.assign(model, { paths: event }),
  committed: (model, event) => model.commits.push(event),
  alternatives: (model, event) => Object.assign(model, { alternatives: event }),
  retrain_epoch: (model, event) => {
    const which = generation(event.network);
    if (which) {
      const isFirst = which === 1;
      if (isFirst && !model.hasFirstTeacher) boundary(model, 0, "search");
      Object.assign(model, { teacher: event, hasFirstTeacher: isFirst || model.hasFirstTeacher, phase: "teacher", ...advance(model, event) });
      return;
    }
    if (!model.retrain) boundary(model, model.started?.epochs ?? 0, "retraining");
    Object.assign(model, { retrain: event, phase: "retraining", ...advance(model, event) });
  },
  result_ready: (model, event) => {
    if (furtherTarget(event.folder) !== null) return; // the main network's is said last
    Object.assign(model, { result: event, phase: "result", fraction: 1, etaSeconds: null });
  },
  search_finished: (model, event) => Object.assign(model, { finished: event, phase: "finished", fraction: 1, etaSeconds: null }),
  search_failed: (model, event) => Object.assign(model, { failure: event, endedIn: model.phase, phase: "failed", etaSeconds: null }),
};

/** How far it is; and how long all of it would take, as the last estimates saw it. */
function advance(model, { fraction, eta_seconds: eta }) {
  if (eta !== null && fraction < 1) model.totals.push(eta / (1 - fraction));
  if (model.totals.length > ESTIMATES) model.totals.shift();
  return { fraction, etaSeconds: eta };
}

function boundary(model, x, label) {
  model.boundaries.push({ x, label });
  for (const id of Object.keys(model.traces)) model.changed.add(id);
}

/** Adds the event's value to the series' line, or to that of its network. */
function plot(model, chart, series, event) {
  const path = series.path.split(".");
  const found = path.reduce((value, key) => value?.[key], event);
  const value = measured(series, found, event, path.at(-1));
  if (value === null || (series.only && event[series.by] !== series.only)) return;
  const label = [series.label, series.by && lineName(event[series.by], model.started)].filter(Boolean).join(", ");
  const trace = line(model.traces[chart], `${series.event}/${series.path}/${label}`, label, series);
  trace.x.push(position(series.at ?? "epoch", model, event));
  trace.y.push(value);
  trace.count.push(typeof found === "number" ? found : null);
  model.changed.add(chart);
}

function measured(series, found, event, granularity) {
  if (found === null || found === undefined) return null;
  if (series.measure === "ratio") return found[1] ? found[0] / found[1] : null;
  const value = series.measure === "share" ? found / (event.totals[granularity]?.[1] || Infinity) : found;
  return (series.sign ?? 1) * value;
}

function position(at, model, event) {
  if (at === "step") return event.epoch - 1 + event.step / event.steps;
  if (at === "retraining" && generation(event.network)) return taught(model, event);
  if (at === "retraining") return (model.started?.epochs ?? 0) + event.epoch;
  if (at === "commit") return model.commits.length;
  return event.epoch ?? 0;
}

/** Where a teacher's epoch stands: they end where its generation begins, and are no longer than the one before it. */
function taught({ epoch }, { network, epoch: own, epochs }) {
  const end = epoch?.epoch ?? 0;
  const room = end ? Math.min(epochs, end / Math.max(1, generation(network) - 1)) : epochs;
  return end - (room * (epochs - own)) / epochs;
}

function line(traces, key, label, series) {
  if (!traces.has(key)) traces.set(key, { label, series, x: [], y: [], count: [] });
  return traces.get(key);
}

/** Of every four consecutive progress events the two with the smallest and largest loss of what is learned, so that spikes stay. */
function thinned(events) {
  const stay = new Set();
  const progress = events.filter((event) => event.kind === "progress");
  const loss = ({ losses }) => losses.task ?? losses.feature ?? losses.agreement ?? 0;
  for (let start = 0; start < progress.length; start += 4) {
    const four = progress.slice(start, start + 4).sort((a, b) => loss(a) - loss(b));
    stay.add(four[0]).add(four.at(-1));
  }
  stay.add(progress.at(-1));
  return events.filter((event) => event.kind !== "progress" || stay.has(event));
}
