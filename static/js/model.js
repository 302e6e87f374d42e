// What may be cut of the known model that is named, as the form tells it.

import { element } from "./elements.js";
import { plural } from "./words.js";

/** The part of the form about a known model. `again` is called when it is to be looked at once more. */
export class Model {
  #parts;

  constructor(place, again) {
    const part = (name) => place.querySelector(`[data-${name}]`);
    this.#parts = { waits: part("waits"), facts: part("facts"), whole: part("whole"), again: place.querySelector("button") };
    this.#parts.again.addEventListener("click", (click) => {
      click.preventDefault();
      this.#parts.again.hidden = true;
      again();
    });
  }

  /** How far it is known what may be cut: {survey, cuttable} of the server's answer. */
  show({ survey, cuttable }) {
    const { waits, facts, whole, again } = this.#parts;
    waits.hidden = !isUnderWay(survey);
    tell(waits, waits.hidden ? "" : `Looking at what may be cut of this model… ${survey.sentence}`);
    again.hidden = survey?.state !== "refused";
    facts.hidden = !cuttable;
    tell(facts, cuttable?.sentence ?? "");
    const frozen = cuttable?.frozen ?? [];
    const depth = (cuttable?.depth ?? []).filter(({ blocks }) => blocks.length);
    whole.hidden = !frozen.length && !depth.length;
    if (whole.hidden) return;
    const summary = [frozen.length && `${plural(frozen.length, "group")} of channels stay whole`, depth.length && `${plural(depth.reduce((sum, { blocks }) => sum + blocks.length, 0), "block")} can be left out`];
    whole.querySelector("summary").textContent = capital(summary.filter(Boolean).join("; "));
    whole.querySelector("div").replaceChildren(...[
      frozen.length && table(["Layer", "Channels", "Why it stays whole"], frozen.map(({ name, width, reason }) => [name, width, reason])),
      depth.length && table(["Part", "Blocks that can be left out"], depth.map(({ name, blocks }) => [name, blocks.join(", ")])),
    ].filter(Boolean));
  }
}

/** Whether the next answer may know more: a worker looks, or is to look, or has just done so. */
export function isUnderWay(survey) {
  return Boolean(survey) && survey.state !== "refused";
}

/** Screen readers hear a text when it is set, so only a new one is. */
function tell(place, text) {
  const sentence = place.querySelector("[data-sentence]");
  if (sentence.textContent !== text) sentence.textContent = text;
}

function table(heads, rows) {
  const cell = (tag, text, scope) => Object.assign(element(tag, typeof text === "number" ? "number" : "", String(text)), scope ? { scope } : {});
  const head = element("tr", "", ...heads.map((text) => cell("th", text, "col")));
  const body = rows.map(([name, ...others]) => element("tr", "", cell("th", name, "row"), ...others.map((text) => cell("td", text))));
  return element("table", "classes", element("thead", "", head), element("tbody", "", ...body));
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
