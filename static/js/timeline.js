// The time line under the drawing: every commit a tick, red for what it cut back and green for what came back.

import { Player } from "./player.js";
import { units } from "./sentences.js";
import { whole } from "./words.js";

const LEVELS = ["operation", "filter", "weight"];

export class Timeline {
  #player;
  #ticks;

  /** parts: {slider, play, follow, text, ticks}; moved() is called when another commit is to be shown. */
  constructor({ ticks, ...parts }, moved) {
    this.#player = new Player(parts, moved);
    this.#ticks = ticks;
  }

  /** The commit that is shown; -1 for before the first, the full network. */
  get index() {
    return this.#player.index;
  }

  /** `isLive`: whether more commits may come. */
  show(model, isLive) {
    const count = model.commits.length;
    this.#player.show(count, isLive);
    if (this.#ticks.childElementCount !== count) this.#ticks.replaceChildren(...marks(model));
    [...this.#ticks.children].forEach((tick, index) => tick.classList.toggle("now", index === this.index));
    this.#player.say(words(model, this.index));
  }
}

/** Heights by the logarithm of the units that changed: a few operations are to be seen beside a thousand weights. */
function marks({ commits, started }) {
  const sum = (counts) => LEVELS.reduce((all, level) => all + (counts[level] ?? 0), 0);
  const most = Math.log1p(Math.max(1, ...commits.flatMap(({ pruned, regrown }) => [sum(pruned), sum(regrown)])));
  return commits.map((commit, index) => {
    const tick = document.createElement("i");
    tick.style.left = `${(100 * (index + 1)) / commits.length}%`;
    tick.style.setProperty("--cut-share", (Math.log1p(sum(commit.pruned)) / most).toFixed(3));
    tick.style.setProperty("--back-share", (Math.log1p(sum(commit.regrown)) / most).toFixed(3));
    tick.title = `Commit ${index + 1}, epoch ${commit.epoch}: ${changes(commit, started)}`;
    return tick;
  });
}

function words({ commits, started }, index) {
  const commit = commits[index];
  if (!commit) return "The full network, before anything is pruned";
  const target = started.also?.length ? `, target ${whole(commit.target)}` : "";
  return `Commit ${index + 1} of ${commits.length}, epoch ${commit.epoch}${target}: ${changes(commit, started)}`;
}

function changes({ pruned, regrown }, started) {
  const [cut, back] = [units(pruned, started), units(regrown, started)];
  return [cut !== "nothing" && `${cut} pruned`, back !== "nothing" && `${back} regrown`].filter(Boolean).join("; ") || "no change";
}
