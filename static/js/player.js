// A slider over moments that can be played. It follows the newest until somebody moves it; "Follow live" returns.

const STEP = 900; // milliseconds a moment is shown while playing

export class Player {
  #parts;
  #moved;
  #count = 0;
  #at = null; // null: the newest
  #playing = null;

  /** parts: {slider, play, follow, text}; moved() is called when another moment is to be shown. */
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

  /** The moment that is shown; -1 for before the first. */
  get index() {
    return this.#at === null ? this.#newest : Math.min(this.#at, this.#newest);
  }

  /** `isLive`: whether more moments may come, so that there is something to follow. */
  show(count, isLive) {
    this.#count = count;
    const { slider, play, follow } = this.#parts;
    slider.max = count;
    slider.value = this.index + 1;
    slider.disabled = play.disabled = count === 0;
    follow.hidden = this.#at === null || !isLive;
  }

  /** Says what is shown, beside the slider and to those who cannot see it. */
  say(words) {
    const { slider, text } = this.#parts;
    if (text.textContent !== words) text.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  }

  get #newest() {
    return this.#count - 1;
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
}
