// What is this unit, and what became of it? A small note beside whatever is pointed at.

import { isOn, told } from "./history.js";

let note = null;

/** Calls `tell` with {choice, unit, name, element} of the unit inside `place` that is pointed at, or null. */
export function whenPointed(place, tell) {
  place.addEventListener("pointerover", (event) => {
    const element = event.target.closest?.("[data-unit]");
    const { choice, unit, name } = element?.dataset ?? {};
    tell(element ? { choice, unit: Number(unit), name, element } : null);
  });
  place.addEventListener("pointerleave", () => tell(null));
}

/** Shows it for {choice, unit, name, element}, as things were at a commit; hides it for null. */
export function tip(unit, model, index) {
  if (!unit) {
    if (note) note.hidden = true;
    return;
  }
  note ??= made();
  const story = told(model, index, unit.choice, unit.unit);
  const state = unit.element.dataset.state;
  note.replaceChildren(Object.assign(document.createElement("strong"), { textContent: unit.name }), document.createElement("br"), story ?? (isOn(state) ? "on since the start" : "off; so much changed at once that this unit's part was not told"));
  note.hidden = false;
  const at = unit.element.getBoundingClientRect();
  const own = note.getBoundingClientRect();
  const left = Math.min(innerWidth - own.width - 8, Math.max(8, at.left + at.width / 2 - own.width / 2));
  const above = at.top - own.height - 8;
  note.style.left = `${left}px`;
  note.style.top = `${above < 8 ? at.bottom + 8 : above}px`;
}

function made() {
  const element = Object.assign(document.createElement("div"), { id: "tip", hidden: true });
  element.setAttribute("role", "tooltip");
  document.body.append(element);
  addEventListener("scroll", () => (element.hidden = true), { passive: true, capture: true });
  return element;
}
