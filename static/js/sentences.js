// What does an event say, in plain words? One sentence and a tone for the log; null for events too frequent to list.

import { blockName, candidate, furtherTarget, generation, networkName, operationWord, stageWords, teacherName } from "./names.js";
import { among, FLATTERED, isBlockwise, isFlattered, undominated, unrated } from "./ratings.js";
import { amount, count, duration, enumerated, listed, metricUnit, multitude, percent, plural, whole } from "./words.js";

const LEVELS = ["operation", "filter", "weight"];

/** {text, tone} of an event; `model` already knows it. Tones: plain, prune, grow, good, bad. */
export function sentence(event, model) {
  return say[event.kind]?.(event, model) ?? null;
}

/** What the log says where another attempt took over. */
export function resumed(attempt) {
  return { tone: "plain", text: `Attempt ${attempt} goes on here from what was saved; the search had been paused, or its engine was lost.` };
}

/** "12 operations, 40 filters and 1,300 weights", leaving out what is zero; `started` says what operations are. */
export function units(counts, started) {
  const word = (level) => (level === "operation" ? operationWord(started) : level);
  const parts = LEVELS.filter((level) => counts[level] > 0).map((level) => plural(counts[level], word(level)));
  return enumerated(parts) || "nothing";
}

/** What was ended on request before its time. */
function early({ ended_early: phases }) {
  const words = { search: "the search", comparison: "the comparison", retraining: "the training" };
  return phases?.length ? ` ${capital(enumerated(phases.map((phase) => words[phase] ?? phase)))} ${phases.length > 1 ? "were" : "was"} ended early on request.` : "";
}

/** "stage 2": where the event's stage stands among those announced. */
export function stageName(event, model) {
  return `stage ${1 + Math.max(0, (model.started?.stages ?? []).findIndex((stage) => stage.name === event.name))}`;
}

const say = {
  data_ready: (event) => plain(
    `Images are ready: ${whole(event.splits.train)} to train on, ${whole(event.splits.validation)} to watch progress with, ` +
      `${whole(event.splits.test)} kept for the final report; ${event.classes.length} classes.` +
      (event.left_out_total ? ` ${plural(event.left_out_total, "file")} could not be read and stayed out.` : ""),
  ),
  search_started: (event) => plain(
    `${isBlockwise({ started: event }) ? "The largest network of this space" : "The full space"} ${event.metric === "latency_ms" ? `takes ${whole(event.full_size)}` : `holds ${count(event.full_size)}`} ${metricUnit(event.metric)}; the target is ${whole(event.target)}${event.also?.length ? `, also ${listed(event.also)}` : ""}` +
      `${Object.entries(event.limits ?? {}).map(([metric, limit]) => `, with at most ${whole(limit)} ${metricUnit(metric)}`).join("")}. ` +
      `${plural(event.stages.length, "stage")}, ${plural(event.epochs, "epoch")}, on ${event.device}.`,
  ),
  stage_started: (event, model) => plain(
    `${capital(stageName(event, model))} begins: ${stageWords(event.name)}.` +
      (event.warmup_epochs ? ` Nothing is pruned in ${event.warmup_epochs === 1 ? "its first epoch" : `its first ${event.warmup_epochs} epochs`}.` : ""),
  ),
  block_rated: (event) => {
    const front = undominated(event.front).length;
    return good(
      `Block ${event.block + 1} of ${event.blocks}: ${plural(event.candidates, "candidate")} rated in ${duration(event.seconds).replace("about ", "")}; no other one is both smaller and better than ${front === 1 ? "one" : whole(front)} of them.`,
    );
  },
  paths_found: (event, { started, rated }) => {
    const { chosen, networks } = event;
    const isTime = started?.metric === "latency_ms"; // ratings are summed with estimates, what is taken was measured
    const size = isTime ? `about ${Number(chosen.size.toPrecision(2))} ms as estimated` : `${amount(chosen.size)} ${metricUnit(started?.metric)}`;
    if (!networks.length) return plain(`${unrated(event, rated)} Taken is a network of ${size}.`.trim());
    const which = isTime ? `the best one of those with ${size}` : `${among(chosen, started?.target)}: ${size}`;
    const why = networks.some((network) => isFlattered(network, chosen)) ? ` A smaller one is rated better, but ${FLATTERED}.` : "";
    return good(`Of ${multitude(event.of)} networks ${which}. ${certainty(event)}${isTime ? " Measured, it is within the target." : ""}${why}`);
  },
  committed: committed,
  collapse_averted: (event) => ({
    tone: "grow",
    text: `${capital(blockName(event.block))} would have kept only skips and pools; ${candidate(event.choice, event.label)} is kept.`,
  }),
  stage_finished: (event, model) => plain(
    `${capital(stageName(event, model))} (${stageWords(event.name)}) is closed after ${duration(event.seconds)} with ${left(event, model)}` +
      (event.validation.accuracy === null || event.validation.accuracy === undefined ? "." : `, validation accuracy ${percent(event.validation.accuracy)}.`),
  ),
  retrain_epoch: (event) => {
    if (event.epoch !== 1) return null;
    const which = generation(event.network);
    if (which > 1) return plain(`${capital(teacherName(event.network))} is trained, for ${plural(event.epochs, "epoch")}: what was found with the one before, made wider.`);
    if (which) return plain(`The teacher is trained first, for ${plural(event.epochs, "epoch")}: a large network, whose answers the blocks are to learn.`);
    return plain(`${capital(networkName(event.network))} is now built for real, without masks, and is to train for ${plural(event.epochs, "epoch")}.`);
  },
  result_ready: (event, model) => {
    const target = furtherTarget(event.folder);
    const what = target === null ? "the result" : networkName(`at ${target}`);
    return good(`${capital(what)} is ready: ${whole(event.report.achieved?.params)} parameters${model.started?.metric === "macs" ? `, ${count(event.report.achieved?.macs)} multiply-adds` : model.started?.metric === "latency_ms" ? `, ${whole(event.report.achieved?.latency_ms)} ms` : ""}, test accuracy ${percent(event.report.accuracy?.test)}.${early(event.report)}`);
  },
  search_finished: (event) => good(`Finished. Searching and training took ${duration(event.seconds)}.`),
  search_failed: (event) => ({ tone: "bad", text: event.message.split("\n")[0] }),
};

/** The size that has not been pruned for good: what is merely off at the moment counts, too. */
function left({ size }, { started, stage }) {
  const isEarly = stage && started && stage.blocks < started.blocks.length;
  return `${amount(size)} ${metricUnit(started?.metric)}${isEarly ? " of the open blocks" : ""}`;
}

function committed(event, model) {
  const pruned = units(event.pruned, model.started);
  const regrown = units(event.regrown, model.started);
  const size = `${capital(left(event, model))} are left, the target is ${amount(event.target)}.`;
  const when = `Epoch ${event.epoch}: `;
  if (regrown !== "nothing" && pruned === "nothing") return { tone: "grow", text: `${when}${regrown} regrown. ${size}` };
  if (regrown !== "nothing") return { tone: "grow", text: `${when}${regrown} regrown, ${pruned} pruned. ${size}` };
  const why = { stage_end: " at the end of the stage", fit: " to fit the target" }[event.reason] ?? "";
  return pruned === "nothing" ? plain(`${when}nothing to prune${why}. ${size}`) : { tone: "prune", text: `${when}${pruned} pruned${why}. ${size}` };
}

/** Whether there may be a better one: rarely, where limits leave nearly nothing to choose from. */
function certainty({ certain = true, visited }) {
  const seen = `a look at ${plural(visited, "beginning")} of networks`;
  return certain ? `That is certain after ${seen}.` : `It is the best that was seen in ${seen}; there may be a better one.`;
}

const plain = (text) => ({ tone: "plain", text });
const good = (text) => ({ tone: "good", text });
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
