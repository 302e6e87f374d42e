// The time line under the drawing: every commit a tick, red for what it cut back and green for what came back.
//
// It follows the newest commit until somebody moves it; "Follow live" returns. Playing starts at the full network.

import { units } from "./sentences.js";
import { whole } from "./words.js";

const STEP = 900; // milliseconds a commit is shown while playing
const LEVELS = ["operation", "filter", "weight"];

export class Timeline {
  #parts;
  #moved;
  #model = null;
  #at = null; // null: the newest
  #playing = null;

  /** parts: {slider, play, follow, text, ticks}; moved() is called when another commit is to be shown. */
  constructor(parts, moved) {
    this.#parts = parts;
    this.#moved = moved;
    parts.slider.addEventListener("input", () => {
      this.#stop();
      this.#go(Number(parts.slider.value) - 1);
    });
    parts.play.addEventListener("click", () => (this.#playing ? this.#stop() : this.#play()));
    parts.follow.addEventListener("click", () => {
      this.#stop();
      this.#go(this.#newest);
      parts.slider.focus();
    });
  }

  /** The commit that is shown; -1 for before the first. */
  get index() {
    return this.#at === null ? this.#newest : Math.min(this.#at, this.#newest);
  }

  /** `isLive`: whether more commits may come, so that there is something to follow. */
  show(model, isLive) {
    this.#model = model;
    const { slider, play, follow, text, ticks } = this.#parts;
    const count = model.commits.length;
    slider.max = count;
    slider.value = this.index + 1;
    slider.disabled = play.disabled = count === 0;
    follow.hidden = this.#at === null || !isLive;
    if (ticks.childElementCount !== count) this.#ticks();
    [...ticks.children].forEach((tick, index) => tick.classList.toggle("now", index === this.index));
    const words = this.#words();
    if (text.textContent !== words) text.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  }

  get #newest() {
    return (this.#model?.commits.length ?? 0) - 1;
  }

  #go(index) {
    this.#at = index >= this.#newest ? null : index;
    this.#moved();
  }

  #play() {
    this.#at = this.index >= this.#newest ? -1 : this.index;
    this.#playing = setInterval(() => {
      this.#go(this.index + 1);
      if (this.#at === null) this.#stop();
    }, STEP);
    this.#parts.play.textContent = "Hold";
    this.#moved();
  }

  #stop() {
    clearInterval(this.#playing);
    this.#playing = null;
    this.#parts.play.textContent = "Replay";
  }

  /** Heights by the logarithm of the units that changed: a few operations are to be seen beside a thousand weights. */
  #ticks() {
    const { commits } = this.#model;
    const sum = (counts) => LEVELS.reduce((all, level) => all + (counts[level] ?? 0), 0);
    const most = Math.log1p(Math.max(1, ...commits.flatMap(({ pruned, regrown }) => [sum(pruned), sum(regrown)])));
    this.#parts.ticks.replaceChildren(...commits.map((commit, index) => {
      const tick = document.createElement("i");
      tick.style.left = `${(100 * (index + 1)) / commits.length}%`;
      tick.style.setProperty("--cut-share", (Math.log1p(sum(commit.pruned)) / most).toFixed(3));
      tick.style.setProperty("--back-share", (Math.log1p(sum(commit.regrown)) / most).toFixed(3));
      tick.title = `Commit ${index + 1}, epoch ${commit.epoch}: ${changes(commit, this.#model.started)}`;
      return tick;
    }));
  }

  #words() {
    const commit = this.#model.commits[this.index];
    if (!commit) return "The full network, before anything is pruned";
    const target = this.#model.started.also?.length ? `, target ${whole(commit.target)}` : "";
    return `Commit ${this.index + 1} of ${this.#model.commits.length}, epoch ${commit.epoch}${target}: ${changes(commit, this.#model.started)}`;
  }
}

function changes({ pruned, regrown }, started) {
  const [cut, back] = [units(pruned, started), units(regrown, started)];
  return [cut !== "nothing" && `${cut} pruned`, back !== "nothing" && `${back} regrown`].filter(Boolean).join("; ") || "no change";
}
