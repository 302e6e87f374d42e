// The form of a new search: asks the server, as fields change, what they would lead to, and shows it before the start.

import { keep, refill } from "./draft.js";
import { isUnderWay, Model } from "./model.js";
import { offer } from "./offer.js";
import { bytes, count, enumerated, listed, memory, metricUnit, span, whole } from "./words.js";

const form = document.getElementById("new-search");
const at = (id) => document.getElementById(id);
const value = form.elements["target__value"];
const slider = at("target-slider");
const CONTROLS = ".form-control, .form-select, [type=checkbox], [role=radiogroup]";
const ASK_AFTER = 250; // milliseconds without another key
const LOOK_AFTER = 900; // the same for names: many a name begins like another, and each is a minute's work
const AGAIN_AFTER = 1500; // while a worker looks at a model
const IDLE = JSON.parse(at("idle").textContent);
const button = form.querySelector("button.btn-primary");
const model = new Model(form.querySelector(".model"), () => outlook("look_again"));
let waits = false; // for what a worker finds out of a model
let full = null;
let asked = 0;
let timer = null;

function ask(after = ASK_AFTER) {
  clearTimeout(timer);
  timer = setTimeout(outlook, after);
}

/** `wish`: name of a button that was pressed. */
async function outlook(wish = "") {
  clearTimeout(timer);
  const number = ++asked;
  at("outlook").setAttribute("aria-busy", "true");
  const answer = await told(wish);
  if (number !== asked) return; // a newer question is on its way
  at("outlook").removeAttribute("aria-busy");
  waits = answer ? isUnderWay(answer.survey) : waits;
  button.disabled = answer !== null && waits;
  if (waits) ask(AGAIN_AFTER);
  if (answer) show(answer);
  else at("outlook-sentence").textContent = "The server cannot be asked right now; you can start the search all the same, it checks again.";
}

/** What the server says of the fields; null if it cannot be asked. */
async function told(wish) {
  const body = new FormData(form);
  if (wish) body.set(wish, "1");
  try {
    const answer = await fetch(form.dataset.outlook, { method: "POST", body, credentials: "same-origin" });
    if (answer.redirected) location.assign(location.href); // signed out
    return answer.ok && !answer.redirected ? await answer.json() : null;
  } catch {
    return null;
  }
}

function show(answer) {
  const known = answer.full_size !== null;
  at("outlook-figures").classList.toggle("unknown", !known);
  problems(answer.problems);
  notes(at("outlook-warnings"), answer.warnings);
  grey((field) => answer.greys[field.name]);
  const refusal = form.querySelector(".notice.bad");
  if (refusal) refusal.hidden = answer.feasible; // mended
  tell(at("outlook-sentence"), verdict(answer, known));
  tell(at("outlook-further"), further(answer));
  model.show(answer);
  full = answer.full_size;
  if (answer.estimate) estimates(answer);
  if (!known) return wait(answer);
  const unit = metricUnit(answer.metric);
  const place = Math.min(100, (100 * (answer.target ?? 0)) / full);
  at("reach-range").style.left = `${(100 * answer.smallest_size) / full}%`;
  at("reach-pin").style.left = `${place}%`;
  at("reach-pin").className = `pin${place < 15 ? " left" : place > 85 ? " right" : ""}`;
  at("reach-target").textContent = count(answer.target);
  at("reach-smallest").textContent = `smallest ${count(answer.smallest_size)}`;
  at("reach-full").textContent = `${method() === "dna" ? "largest" : "all of it"} ${count(full)}`;
  at("reach").setAttribute("aria-label", `From ${whole(answer.smallest_size)} to ${whole(full)} ${unit} can be reached; the target is ${whole(answer.target)}.`);
  at("outlook-target").textContent = answer.target === null ? "—" : `${whole(answer.target)} ${unit}`;
  row("also", listed(answer.also));
  slide();
}

/** What does not hang on the target: limits beside it, time, memory, file. */
function estimates(answer) {
  row("limits", enumerated(Object.entries(answer.limits).map(([metric, most]) => limit(most, metricUnit(metric), answer.reach[metric]))));
  at("outlook-time").textContent = span(answer.time.least, answer.time.most);
  at("outlook-memory").textContent = `about ${memory(answer.estimate.memory_mib)}`;
  at("outlook-file").textContent = `${bytes(answer.estimate.bytes_least)} to ${bytes(answer.estimate.bytes_most)}`;
  at("outlook-basis").textContent = basis(answer.time.searches, "weight" in answer.choices);
}

/** No figures, in the room of the old ones: they would be of something else than what the fields say now. */
function wait({ problems, survey, estimate }) {
  for (const name of ["target", "also"]) at(`outlook-${name}`).textContent = "—";
  for (const name of ["smallest", "full"]) at(`reach-${name}`).textContent = "—";
  at("reach").setAttribute("aria-label", "What can be reached is not known yet.");
  if (estimate) return; // all but the milliseconds
  for (const name of ["limits", "time", "memory", "file"]) at(`outlook-${name}`).textContent = "—";
  const marked = `the marked ${problems.length === 1 ? "field is" : "fields are"} mended`;
  at("outlook-basis").textContent = `These figures wait until ${isUnderWay(survey) ? "it is known what may be cut of the model" : marked}.`;
}

function verdict(answer, known) {
  if (answer.feasible && !known) return "It can start. What milliseconds can be reached is known once it has begun: it measures its device first, and stops if the target is out of reach.";
  if (answer.feasible) return "This can be reached.";
  if (isUnderWay(answer.survey) && !answer.problems.length) return "It can start when the model has been looked at.";
  const beyond = answer.problems.some(([field]) => field.startsWith("target__"));
  return known && beyond ? "This cannot be reached as it stands:" : "Something has to be mended first:";
}

/** Where to read on: below the button, which so stays where it is. */
function further(answer) {
  if (answer.problems.length) return "see below the button, and at the fields.";
  const doubts = answer.warnings.length;
  return doubts ? `Read the ${doubts === 1 ? "warning" : `${doubts} warnings`} below the button first.` : "";
}

/** A row of the figures that is there only if it has something to say. */
function row(name, text) {
  for (const place of form.querySelectorAll(`[data-${name}]`)) place.hidden = !text;
  at(`outlook-${name}`).textContent = text;
}

function limit(most, unit, [smallest, all]) {
  return `${whole(most)} ${unit} (${count(smallest)} to ${count(all)} can be reached)`;
}

function basis(searches, zeros) {
  const time = searches
    ? `Time: from your last ${searches === 1 ? "search" : `${searches} searches`} of about this length.`
    : "Time: from our benchmark, on one core of a quiet processor; a GPU is faster.";
  return zeros ? `${time} File: the more of the cut weights are zeros in it, the larger.` : time;
}

/** Each sentence under its field, and all of them, with links, beside the button. */
function problems(found) {
  for (const field of form.querySelectorAll("[data-field]")) {
    const sentences = found.filter(([name]) => name === field.dataset.field).map(([, sentence]) => sentence);
    tell(field.querySelector(".problem"), sentences.join(" "));
    for (const control of field.querySelectorAll(CONTROLS)) {
      if (sentences.length) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
    }
  }
  notes(at("outlook-problems"), found);
}

/** Sentences, each with a link to its field. */
function notes(list, found) {
  list.replaceChildren(...found.map(([name, sentence]) => {
    const item = document.createElement("li");
    const field = form.querySelector(`[data-field="${CSS.escape(name)}"]`);
    item.append(field ? link(field, sentence) : sentence);
    return item;
  }));
}

function link(field, sentence) {
  const made = document.createElement("a");
  made.href = `#${field.querySelector(".problem").id}`;
  const label = field.querySelector(".form-label")?.firstChild.textContent.trim();
  made.textContent = label ? `${label}: ${sentence}` : sentence;
  made.addEventListener("click", (click) => {
    click.preventDefault();
    const folded = field.closest("details");
    if (folded) folded.open = true;
    field.querySelector("input, select, textarea")?.focus();
  });
  return made;
}

/** Screen readers hear a text when it is set, so only a new one is. */
function tell(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** The slider follows the text; a number needs the full size to become a percentage. */
function slide() {
  const text = value.value.trim().replace(/[,_]/g, "");
  const percent = text.endsWith("%") ? parseFloat(text) : full ? (100 * parseFloat(text)) / full : NaN;
  if (Number.isFinite(percent)) slider.value = percent;
  slider.setAttribute("aria-valuetext", `${slider.value} percent`);
}

/** What a preset fills in, whatever the images are; the outlook knows better. */
function presets() {
  const chosen = form.elements.preset.value;
  grey((field) => JSON.parse(field.dataset.presets)[chosen]);
}

/** What an empty field stands for is written into it in grey. */
function grey(textOf) {
  for (const field of form.querySelectorAll("[data-presets]")) {
    const text = textOf(field);
    if (text === undefined) continue;
    if (field.tagName === "SELECT") field.options[0].text = `As the effort says (${text})`;
    else if (field.type !== "checkbox") field.placeholder = text;
  }
}

/** The one that is chosen; DNA's percentages are of the largest network, which has one operation a layer. */
function method() {
  return form.elements["strategy__kind"].value;
}

/** What an advanced field says: what was filled in, or what its effort does. */
function said(field) {
  return field.value || JSON.parse(field.dataset.presets)[form.elements.preset.value];
}

/** Of a part with several kinds, only what belongs to the chosen one is shown and sent. */
function kinds() {
  if (form.elements["space__kind"].value === "imported") offer(at("model-names"), form.elements["space__imported__library"].value);
  if (method() === "dna") offer(at("teacher-names"), said(form.elements["strategy__dna__teacher_library"]));
  for (const group of form.querySelectorAll("[data-kind]")) {
    group.hidden = group.disabled = form.elements[group.dataset.kindOf].value !== group.dataset.kind;
  }
}

/** Fields that say nothing beside what others say are neither shown nor sent. */
function idle() {
  const all = new Set(Object.values(IDLE).flatMap((values) => Object.values(values).flat()));
  const now = new Set(Object.entries(IDLE).flatMap(([name, values]) => values[said(form.elements[name])] ?? []));
  for (const name of all) {
    const field = form.querySelector(`[data-field="${CSS.escape(name)}"]`);
    const place = field.parentElement.matches(".field-grid") ? field : field.parentElement;
    place.hidden = form.elements[name].disabled = now.has(name);
  }
}

function sentences() {
  for (const place of form.querySelectorAll("[data-sentence-of]")) {
    place.textContent = at(place.dataset.sentenceOf).selectedOptions[0]?.dataset.sentence ?? "";
  }
}

form.addEventListener("input", (event) => {
  if (event.target === slider) value.value = `${slider.value}%`;
  if (event.target === value) slide();
  if (event.target.name === "preset") presets();
  kinds();
  idle();
  sentences();
  ask(event.target.list ? LOOK_AFTER : ASK_AFTER);
});

refill(form);
keep(form);
if (form.querySelector("#advanced .problem:not(:empty)")) at("advanced").open = true;
presets();
kinds();
idle();
sentences();
slide();
at("outlook-figures").hidden = false;
outlook();
