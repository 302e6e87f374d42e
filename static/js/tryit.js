// A found network tried on an image: in this browser if it can be had here, else by the server.

import { element } from "./elements.js";
import { Local, Unfetched } from "./onnx.js";
import { paint, photographed, Sheet, Unreadable } from "./picture.js";
import { likeliest } from "./pixels.js";
import { bytes, milliseconds, percent, plural } from "./words.js";

const CAMERA = {
  NotAllowedError: "The camera was refused. Allow it beside the browser's address line, or choose a photo.",
  NotFoundError: "There is no camera on this device; choose a photo.",
};
const NO_CAMERA = "A browser gives a page the camera over HTTPS alone, or on the machine itself; choose a photo.";
const CANNOT = "This browser cannot run the network, so the server does; your image is not kept.";
const UNFETCHED = "What runs the network could not be fetched just now, so the server answered; your image is not kept. The next one is tried here again.";

class TryIt extends HTMLElement {
  connectedCallback() {
    if (this.told) return;
    this.told = JSON.parse(this.querySelector("script").textContent);
    this.where = this.part("[data-where]").textContent;
    this.opened = new Map(); // folder of a network -> promise of it
    this.asked = 0;
    this.addEventListener("click", (click) => this.clicked(click.target));
    this.addEventListener("change", ({ target }) => {
      if (target.type === "file" && target.files.length) this.ask({ file: target.files[0], input: target });
      else if (target.matches("select") && this.last) this.ask(this.last);
    });
    this.addEventListener("submit", (submit) => submit.preventDefault());
    this.listenForDrops(this.part(".drop"));
    this.drawExamples();
  }

  disconnectedCallback() {
    this.closeCamera();
  }

  part(selector) {
    return this.querySelector(selector);
  }

  clicked(target) {
    const example = target.closest("[data-example]");
    if (example) this.askExample(example);
    else if (target.closest("[data-camera]")) this.openCamera();
    else if (target.closest("[data-take]")) this.take();
    else if (target.closest("[data-close]")) this.closeCamera();
  }

  listenForDrops(drop) {
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
        if (kind !== "drop" || !event.dataTransfer.files.length) return;
        const input = this.part("input[type=file]");
        input.files = event.dataTransfer.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
      });
    }
  }

  // Asking

  /** What the network says of `file` (or the promise of one), which `input` or `example` gave; `truth` is the name of its class. */
  async ask(subject) {
    const [turn, network] = [++this.asked, this.network];
    this.last = subject;
    if (!subject.input) this.part("input[type=file]").value = "";
    for (const button of this.querySelectorAll("[data-example]")) button.setAttribute("aria-pressed", String(button === subject.example));
    this.parentElement.dataset.inUse = "";
    this.problem("");
    this.setAttribute("aria-busy", "true");
    try {
      const answer = await this.answer(await subject.file, network);
      if (turn === this.asked) this.show(answer, subject.truth);
    } catch (error) {
      if (turn !== this.asked) return;
      this.part("[data-answer]").hidden = true; // it was on another image
      this.part("[data-said]").textContent = "";
      this.problem(error instanceof Unreadable ? error.message : `It did not work (${error.message}). Try again.`);
    } finally {
      if (turn === this.asked) this.setAttribute("aria-busy", "false");
    }
  }

  get network() {
    const chosen = this.part("select")?.value;
    return this.told.networks.find(({ folder }) => folder === chosen) ?? this.told.networks[0];
  }

  async answer(file, network) {
    if (!this.told.assets) return this.askServer(file, network);
    const where = this.part("[data-where]");
    try {
      const answer = await (await this.open(network)).ask(file);
      where.textContent = this.where;
      return answer;
    } catch (error) {
      if (error instanceof Unreadable) throw error; // that is for whoever chose it to mend
      const isAway = error instanceof Unfetched;
      if (!isAway) this.told.assets = null; // this browser cannot, whatever the reason
      where.textContent = isAway ? UNFETCHED : CANNOT;
      return this.askServer(file, network);
    }
  }

  open(network) {
    const [box, text, bar] = ["[data-fetching]", "[data-fetched]", "progress"].map((name) => this.part(name));
    const { folder, files } = network;
    if (!this.opened.has(folder)) {
      box.hidden = false;
      bar.removeAttribute("value");
      text.textContent = "Fetching what runs networks in a browser, once…";
      const opened = Local.open(this.told.assets, files, (soFar, total) => {
        text.textContent = `Fetching what runs networks in a browser, once: ${bytes(soFar)}${total ? ` of ${bytes(total)}` : ""}`;
        if (total) bar.value = soFar / total;
      });
      opened.catch(() => this.opened.delete(folder)).finally(() => (box.hidden = true));
      this.opened.set(folder, opened);
    }
    return this.opened.get(folder);
  }

  async askServer(file, { folder }) {
    const form = new FormData();
    form.append("csrfmiddlewaretoken", this.part("[name=csrfmiddlewaretoken]").value);
    form.append("network", folder);
    form.append("image", file);
    const reply = await fetch(this.told.server, { method: "POST", body: form, credentials: "same-origin" });
    if (reply.redirected) throw new Unreadable("You were signed out; reload the page to sign in again.");
    if (reply.status === 413) throw new Unreadable("This image is larger than the server takes; make it smaller first.");
    const said = await reply.json().catch(() => ({ message: `The server answered with status ${reply.status}; try again.` }));
    if (!reply.ok || !said.chances) throw new Unreadable(said.message);
    return { ...said, pixels: Uint8Array.from(atob(said.pixels), (byte) => byte.charCodeAt(0)), onServer: true };
  }

  // Showing

  show({ classes, chances, pixels, size, milliseconds: time, runs, onServer }, truth) {
    const best = likeliest(chances);
    const says = classes[best[0][0]];
    const verdict = truth === undefined ? "" : truth === says ? " That is right." : ` That is wrong: it is ${truth}.`;
    this.part("[data-said]").replaceChildren("It says ", element("strong", "", says), `, ${percent(best[0][1])} sure.${verdict}`);
    this.part("[data-answer]").hidden = false;
    paint(this.part("figure canvas"), pixels, size);
    this.part("figcaption").textContent = `What it saw: ${size} × ${size} pixels${pixels.length === size * size ? ", grey" : ""}`;
    this.part(".guesses").replaceChildren(...best.map(([number, chance]) => guess(classes[number], chance)));
    this.part("[data-time]").textContent =
      `One image takes ${milliseconds(time)} ${onServer ? "on the server" : "in this browser, on this device"}: the median of ${plural(runs, "run")} after a warm-up, with one thread.`;
  }

  problem(text) {
    this.part(".problem").textContent = text;
  }

  // Examples

  drawExamples() {
    if (!this.told.examples.length) return;
    this.sheet = new Sheet(this.told.sheet.url, this.told.sheet);
    const nearby = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      nearby.disconnect();
      for (const button of this.querySelectorAll("[data-example]")) {
        this.sheet.draw(button.querySelector("canvas"), this.example(button).tile).catch(() => (button.hidden = true));
      }
    }, { rootMargin: "400px" });
    nearby.observe(this);
  }

  example(button) {
    return this.told.examples[Number(button.dataset.example)];
  }

  askExample(button) {
    const { tile, name } = this.example(button);
    return this.ask({ file: this.photographed(tile), example: button, truth: name });
  }

  async photographed(tile) {
    const canvas = document.createElement("canvas");
    try {
      await this.sheet.draw(canvas, tile);
    } catch {
      throw new Unreadable("This picture cannot be fetched; reload the page.");
    }
    return photographed(canvas, [canvas.width, canvas.height]);
  }

  // Camera: opened by a click alone, and closed as soon as the picture is taken

  async openCamera() {
    if (this.asking || this.stream) return;
    this.problem("");
    if (!navigator.mediaDevices?.getUserMedia) return this.problem(NO_CAMERA);
    this.asking = true; // it may take a person as long as it likes to allow it
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      return this.problem(CAMERA[error.name] ?? `The camera does not start (${error.name}); choose a photo.`);
    } finally {
      this.asking = false;
    }
    if (!this.isConnected) return this.closeCamera(); // this part of the page was renewed meanwhile
    this.parentElement.dataset.inUse = "";
    this.part("video").srcObject = this.stream;
    this.part(".camera").hidden = false;
    this.part("[data-camera]").hidden = true;
    return this.part("[data-take]").focus();
  }

  async take() {
    const video = this.part("video");
    if (!video.videoWidth) return; // nothing to see yet
    const file = await photographed(video, [video.videoWidth, video.videoHeight]);
    this.closeCamera();
    await this.ask({ file });
  }

  closeCamera() {
    if (!this.stream) return;
    for (const track of this.stream.getTracks()) track.stop();
    this.stream = this.part("video").srcObject = null;
    this.part(".camera").hidden = true;
    this.part("[data-camera]").hidden = false;
    this.part("[data-camera]").focus();
  }
}

function guess(name, chance) {
  const [label, bar] = [element("span", "name", name), element("i")];
  label.title = name;
  bar.style.width = `${100 * chance}%`;
  return element("li", "", label, element("span", "track", bar), element("span", "value", percent(chance)));
}

customElements.define("try-it", TryIt);
