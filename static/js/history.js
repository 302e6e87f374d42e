// When did a unit fall, why, and when did it come back? Read off the commits, which say what changed and by which score.

import { unitsOn } from "./run.js";

/** All changes of a unit up to a commit, oldest first: {commit, change}. */
export function history(model, upTo, choice, unit) {
  return model.commits.slice(0, upTo + 1).flatMap((commit) => {
    const change = commit.changes.find((one) => one.choice === choice && one.unit === unit);
    return change ? [{ commit, change }] : [];
  });
}

/** One sentence for each of them: "fell in epoch 7: score 0.312 under threshold 0.450; 0.04 % of the size went with it". */
export function told(model, upTo, choice, unit) {
  const parts = history(model, upTo, choice, unit).map(({ commit, change }) =>
    change.action === "pruned"
      ? `fell in epoch ${commit.epoch}${reason(commit, change)}${cost(change)}`
      : `came back in epoch ${commit.epoch}`,
  );
  return parts.length ? parts.join("; ") : null;
}

function reason({ reason: why }, { score, threshold }) {
  if (typeof score !== "number" || typeof threshold !== "number") return "";
  if (score <= threshold) return `: score ${score.toFixed(3)}, threshold ${threshold.toFixed(3)}`;
  return why === "fit" ? `: score ${score.toFixed(3)}, not enough for the exact fit` : `: score ${score.toFixed(3)}`;
}

function cost({ cost: share }) {
  return typeof share === "number" && share > 0 ? `, ${(100 * share).toPrecision(2)} % of the size went with it` : "";
}

/** States of every unit of these choices at a commit: on, off, cut (just now), back (on after having been off), back-now. */
export class States {
  #choices;
  #index = -1;
  #commit = null;
  #states = new Map();

  constructor(choices) {
    this.#choices = choices;
  }

  /** choice -> list of states; goes on from the last commit asked for where that is possible. */
  at(commits, index) {
    const goesOn = this.#index <= index && (this.#index < 0 || commits[this.#index] === this.#commit);
    if (!goesOn) this.#states = new Map();
    for (let at = (goesOn ? this.#index : -1) + 1; at <= index; at += 1) {
      for (const { name, units } of this.#choices) {
        const before = this.#states.get(name);
        this.#states.set(name, Array.from(unitsOn(commits[at].kept[name], units), (on, unit) => next(before?.[unit] ?? "on", on)));
      }
    }
    this.#index = index;
    this.#commit = commits[index] ?? null;
    return this.#states;
  }
}

function next(before, on) {
  const was = isOn(before);
  if (on) return was ? (before === "on" ? "on" : "back") : "back-now";
  return was ? "cut" : "off";
}

export const isOn = (state) => state === "on" || state.startsWith("back");
