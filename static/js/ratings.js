// What do the ratings of blocks say? Pure; lower is better.

import { turn } from "./names.js";
import { enumerated } from "./words.js";

const TOLERANCE = 0.03; // so far below the target the engine looks first
const ALIKE = 5e-7; // ratings are told with six digits

/** Whether blocks learn and are rated one by one: a stage each. */
export function isBlockwise({ started }) {
  return Boolean(turn(started?.stages[0]?.name));
}

/** Of candidates, {cost, rating}, those than which no other one is both smaller and better, by rising cost. */
export function undominated(candidates) {
  let lowest = Infinity;
  return [...candidates].sort((a, b) => a.cost - b.cost || a.rating - b.rating).filter(({ rating }) => {
    const isBetter = rating < lowest;
    lowest = Math.min(lowest, rating);
    return isBetter;
  });
}

/** Which blocks were not rated when the network had to be chosen, and what was taken of them; empty where all were. */
export function unrated({ chosen, networks }, rated = []) {
  if (networks.length) return "";
  const left = chosen.ratings.flatMap((_, block) => (rated[block] ? [] : [String(block + 1)]));
  if (left.length === chosen.ratings.length) return "No block was rated before the search was ended; larger candidates were taken of all.";
  if (left.length === 1) return `Block ${left[0]} was not rated before the search was ended; a larger candidate was taken of it.`;
  return left.length ? `Blocks ${enumerated(left)} were not rated before the search was ended; larger candidates were taken of them.` : "";
}

/** "the best one of those just below the target": among what the network was chosen. */
export function among({ size }, target) {
  return size >= (1 - TOLERANCE) * target ? "the best one of those just below the target" : "the best one within the target";
}

/** Why a smaller network that is rated better is not taken. */
export const FLATTERED = "ratings may flatter small networks, and the target is there to be used";

/** Whether a network is smaller than the one that was taken, and rated better. */
export function isFlattered(network, chosen) {
  return network.size < chosen.size && beside(network.rating, chosen.rating) < 0;
}

/** How two ratings stand: -1 if the first is better, 1 if it is worse, 0 if they are alike. */
export function beside(first, second) {
  return Math.abs(first - second) < ALIKE ? 0 : Math.sign(first - second);
}

/** 0.51234 -> "0.512". */
export function rating(value) {
  return value === null || value === undefined ? "—" : String(Number(value.toPrecision(3))).replace("-", "−");
}
