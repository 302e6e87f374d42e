// Sends a file with a progress bar. Without this script the form works all the same, only silently.

import { take } from "./swap.js";
import { bytes, duration } from "./words.js";

document.addEventListener("submit", (submit) => {
  if (submit.target.id !== "upload") return;
  submit.preventDefault();
  send(submit.target);
});

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    const drop = event.target.closest?.(".drop");
    if (!drop) return;
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      const input = drop.querySelector("input[type=file]");
      input.files = event.dataTransfer.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    }
  });
}

/** The button that was pressed is gone or was disabled, and the focus with it: it goes to what has to be mended. */
function again() {
  document.querySelector("#upload input[type=file]").focus();
}

function send(form) {
  const [box, text, bar, button] = [...["upload-progress", "upload-text", "upload-bar"].map((id) => document.getElementById(id)), form.querySelector("button")];
  const request = new XMLHttpRequest();
  const begun = performance.now();
  const over = (message) => {
    button.disabled = false;
    text.textContent = message;
    bar.hidden = true;
    again();
  };
  request.upload.onprogress = ({ loaded, total }) => {
    const seconds = (performance.now() - begun) / 1000;
    const left = seconds > 2 && loaded < total ? `, ${duration((seconds * (total - loaded)) / loaded)} left` : "";
    bar.value = loaded / total;
    text.textContent = loaded < total ? `${bytes(loaded)} of ${bytes(total)} sent${left}` : "Sent; the server is looking at it…";
  };
  request.onload = () => {
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    if (request.status < 300 && !page.querySelector("#upload .problem:not(:empty)")) return location.assign(request.responseURL);
    if (page.getElementById("upload")) {
      take(page, ["upload"]);
      return again();
    }
    return over(request.status === 413 ? "This file is larger than the server takes." : `The server refused it (status ${request.status}). Try again.`);
  };
  request.onerror = () => over("The connection broke before everything was sent. Try again.");
  request.open("POST", form.action);
  box.hidden = bar.hidden = false;
  bar.value = 0;
  button.disabled = true;
  request.send(new FormData(form));
}
