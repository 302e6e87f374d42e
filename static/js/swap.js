// Keeps parts of a page fresh without drawing them twice: fetches the page again and takes over the named elements.

/** Fetches this page and replaces each element of `ids` by its namesake. Returns the fetched document, or null. */
export async function swap(ids, signedOut = () => {}) {
  let page;
  try {
    const answer = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
    if (answer.redirected) signedOut();
    if (!answer.ok || answer.redirected) return null;
    page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    return null; // no network: the next turn tries again
  }
  take(page, ids);
  return page;
}

/**
 * Replaces each element of `ids` by its namesake in `page`, unless it is equal or in use (data-in-use). Focus and ticks stay
 * where they are.
 */
export function take(page, ids) {
  for (const id of ids) {
    const [old, fresh] = [document.getElementById(id), page.getElementById(id)];
    if (!old || !fresh || old.isEqualNode(fresh) || "inUse" in old.dataset) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const place = focused?.id ? `#${CSS.escape(focused.id)}` : focused?.hasAttribute("href") ? `[href="${CSS.escape(focused.getAttribute("href"))}"]` : null;
    for (const box of old.querySelectorAll("input[id][type='checkbox']")) {
      const again = fresh.querySelector(`#${CSS.escape(box.id)}`);
      if (again) again.checked = box.checked;
    }
    old.replaceWith(document.adoptNode(fresh));
    if (place) document.getElementById(id).querySelector(place)?.focus();
  }
}

/**
 * Swaps the element `id` every `every` milliseconds as long as its data-live says something and the tab is looked at.
 * Who was signed out meanwhile gets to the sign-in page.
 */
export function keepFresh(id, every = 3000) {
  setInterval(() => {
    if (!document.hidden && document.getElementById(id)?.dataset.live) swap([id], () => location.reload());
  }, every);
}
