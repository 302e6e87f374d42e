// The pictures behind the numbers of the table of what a network takes for what.

import { element } from "./elements.js";
import { Sheet } from "./picture.js";
import { percent, plural, whole } from "./words.js";

const SUREST = 12;

class Mistakes extends HTMLElement {
  connectedCallback() {
    const told = this.querySelector("script")?.textContent;
    if (!told || this.told) return;
    this.told = JSON.parse(told);
    this.sheet = new Sheet(this.told.url, this.told);
    this.addEventListener("click", ({ target }) => {
      const button = target.closest("[data-true], [data-all]");
      if (button) this.show(button);
    });
    // The sheet is fetched when somebody comes near.
    const nearby = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      nearby.disconnect();
      this.show(null);
    }, { rootMargin: "400px" });
    nearby.observe(this);
  }

  /** The pictures behind a button; those the network was surest of if it is none of the table's. */
  show(button) {
    const pair = button?.dataset.true === undefined ? null : [Number(button.dataset.true), Number(button.dataset.predicted)];
    const { mistakes, classes } = this.told;
    const chosen = pair
      ? mistakes.filter((one) => one.true === pair[0] && one.predicted === pair[1])
      : mistakes.toSorted((a, b) => b.probability - a.probability).slice(0, SUREST);
    for (const other of this.querySelectorAll("[data-true]")) other.setAttribute("aria-pressed", other === button);
    if (button) this.parentElement.dataset.inUse = "";
    this.querySelector("[data-all]").hidden = !pair;
    this.querySelector("[data-title]").textContent = pair
      ? heading(chosen.length, Number(button.textContent), ...pair.map((number) => classes[number]))
      : chosen.length === 1 ? "The network was sure of this one" : `The ${whole(chosen.length)} mistakes it was surest of`;
    this.querySelector(".wrong").replaceChildren(...chosen.map((one) => this.picture(one)));
  }

  picture({ tile, true: truth, predicted, probability }) {
    const [is, says] = [this.told.classes[truth], this.told.classes[predicted]];
    const canvas = element("canvas", "pixels");
    canvas.setAttribute("aria-hidden", "true"); // the words beside it say what can be said
    const sure = `${percent(probability, 0)} sure`;
    const text = element("p", "", element("strong", "", is), " → ", element("strong", "", says), element("br"), sure);
    this.sheet.draw(canvas, tile).catch(() => (text.textContent = "This picture cannot be fetched; reload the page."));
    return element("li", "", canvas, text);
  }
}

function heading(shown, count, is, says) {
  return `${is} taken for ${says}: ${plural(count, "image")}${shown < count ? `, ${whole(shown)} of them shown` : ""}`;
}

customElements.define("its-mistakes", Mistakes);
