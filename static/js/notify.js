// A note on the desktop when a search ends, for whoever asked for one. The wish is kept in this browser, for each search.

const KEY = (id) => `tell ${id}`;

export class Notify {
  #button;
  #id;
  #name;
  #live = null; // whether it was under way when last heard of

  constructor(button, id, name) {
    this.#button = button;
    this.#id = id;
    this.#name = name;
    button.addEventListener("click", () => this.#ask());
  }

  /** frame: a state of the feed. */
  state({ finished, label, sentence }) {
    const ended = finished && this.#live;
    this.#live = !finished;
    this.#button.hidden = finished || !("Notification" in window) || Notification.permission === "denied";
    this.#show();
    if (!ended || !this.#wanted) return;
    this.#wanted = false;
    if (Notification.permission !== "granted") return;
    try {
      const note = new Notification(`${this.#name}: ${label}`, { body: sentence, tag: this.#id, icon: "/static/img/logo.svg" });
      note.onclick = () => focus();
    } catch {
      // browsers of phones have the name, but let service workers alone make one
    }
  }

  async #ask() {
    this.#wanted = !this.#wanted && (await Notification.requestPermission()) === "granted";
    if (Notification.permission === "denied") this.#button.hidden = true;
    this.#show();
  }

  #show() {
    this.#button.setAttribute("aria-pressed", String(this.#wanted));
    this.#button.textContent = this.#wanted ? "You will be told when it ends" : "Tell me when it ends";
  }

  get #wanted() {
    try {
      return localStorage.getItem(KEY(this.#id)) === "yes";
    } catch {
      return false; // storage is switched off: nothing is remembered
    }
  }

  set #wanted(value) {
    try {
      if (value) localStorage.setItem(KEY(this.#id), "yes");
      else localStorage.removeItem(KEY(this.#id));
    } catch {
      // the button says that it is not
    }
  }
}
