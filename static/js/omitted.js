// What of a search did not run because it was ended early, or would not run if it were ended now? Pure.

import { generation, turn } from "./names.js";
import { isBlockwise } from "./ratings.js";
import { plural } from "./words.js";

/** Of a stage that lies behind: "left out" if it never began, "cut short" if it did not come to its end; else empty. */
export function omitted(model, number) {
  if (!model.begun.has(number)) return "left out";
  const block = turn(model.started.stages[number].name)?.block;
  const isRated = block === undefined ? !isTheLastOfACutSearch(model, number) : (model.rated[block]?.stage ?? -1) >= number;
  return model.closed.has(number) && isRated ? "" : "cut short";
}

/** A last stage that is ended early closes all the same; the result tells it. */
function isTheLastOfACutSearch({ started, result }, number) {
  return number === started.stages.length - 1 && Boolean(result?.report.ended_early?.includes("search"));
}

/** The same of the first teacher. */
export function untaught({ teacher }) {
  return generation(teacher?.network) === 1 && teacher.epoch < teacher.epochs ? "cut short" : "";
}

/** How many blocks have a rating that would choose what is taken of them; empty where no blocks are rated. */
export function ratedSoFar(model) {
  if (!isBlockwise(model)) return "";
  const [rated, { stages }] = [model.rated.filter(Boolean).length, model.started];
  const total = new Set(stages.map(({ name }) => turn(name).block)).size;
  if (!rated) return "Nothing is rated yet: the network would be one that fits the target, chosen by its size alone.";
  if (rated < total) return `${rated} of ${plural(total, "block")} ${rated === 1 ? "is" : "are"} rated so far; what stands in the others would be chosen by its size alone.`;
  const last = stages.findLastIndex(({ name }) => turn(name).block === 0);
  const old = model.rated.filter(({ stage }) => stage < last).length;
  if (old) return `All blocks are rated, ${old === total ? "" : `${old} of them `}by the teacher before.`;
  return "All blocks are rated.";
}
