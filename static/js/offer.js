// The names of the models that a library has, for fields in which one is typed.

let fetched = null; // library -> names, once they are wanted

/** Offers the names of a library in the list of a field; `list` says where they are to be had. */
export async function offer(list, library) {
  if (list.dataset.library === library) return;
  list.dataset.library = library;
  fetched ??= fetch(list.dataset.names, { credentials: "same-origin" }).then((answer) => answer.json());
  try {
    const names = (await fetched)[library] ?? [];
    list.replaceChildren(...names.map((name) => Object.assign(document.createElement("option"), { value: name })));
  } catch {
    fetched = null; // a name can be typed all the same
    delete list.dataset.library;
  }
}
