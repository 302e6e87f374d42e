// A half-filled form that is left by one of its links, for an upload say: kept in this tab until the form is open again.

const KEY = "draft";
/** Of the address: what it begins with -> the fields that say so, which it has the last word on. */
const BEGUN = {
  dataset: ["data__dataset"],
  weights: ["space__kind", "space__imported__weights", "space__imported__path"],
  teacher: ["space__kind", "strategy__kind", ...["teacher", "teacher_weights", "teacher_path"].map((name) => `strategy__dna__${name}`)],
};

/** Keeps what is filled in whenever a link of the form is followed, until it is sent. */
export function keep(form) {
  form.addEventListener("click", ({ target }) => {
    if (!target.closest('a[href]:not([href^="#"])')) return;
    stored((storage) => storage.setItem(KEY, JSON.stringify(controls(form).map((field) => [place(field), content(field)]))));
  });
  form.addEventListener("submit", () => stored((storage) => storage.removeItem(KEY)));
}

/** Fills in what was kept, once. A form that is to be like another search begins with that alone. */
export function refill(form) {
  const draft = JSON.parse(stored((storage) => storage.getItem(KEY)) ?? "null");
  stored((storage) => storage.removeItem(KEY));
  const begun = new URLSearchParams(location.search);
  if (!draft || begun.has("from")) return;
  const said = new Set(Object.entries(BEGUN).flatMap(([name, fields]) => (begun.has(name) ? fields : [])));
  const kept = new Map(draft);
  for (const field of controls(form)) {
    const value = kept.get(place(field));
    if (value === undefined || said.has(field.name)) continue;
    if (isTicked(field)) field.checked = value;
    else if (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value)) field.value = value;
  }
}

const controls = (form) => [...form.elements].filter(({ name, type }) => name && !["hidden", "submit"].includes(type));
const isTicked = ({ type }) => type === "checkbox" || type === "radio";
const place = (field) => (isTicked(field) ? `${field.name}=${field.value}` : field.name);
const content = (field) => (isTicked(field) ? field.checked : field.value);

/** Nothing where the browser keeps nothing; then the form begins anew. */
function stored(act) {
  try {
    return act(sessionStorage);
  } catch {
    return null;
  }
}
