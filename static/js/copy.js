// A button with data-copy="id" puts the text of that element into the clipboard, or, where that is refused, selects it.

const SHOWN = 2500; // milliseconds

document.addEventListener("click", async (click) => {
  const button = click.target.closest?.("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    tell(button, "Copied");
  } catch {
    getSelection().selectAllChildren(source); // no clipboard without HTTPS or permission
    tell(button, "Selected: copy it with Ctrl+C");
  }
});

/** For a moment in the button's place of its own word; screen readers hear it. */
function tell(button, text) {
  button.dataset.word ??= button.textContent;
  button.textContent = text;
  const status = button.parentElement.querySelector("[role=status]");
  if (status) status.textContent = text;
  setTimeout(() => {
    button.textContent = button.dataset.word;
    if (status) status.textContent = "";
  }, SHOWN);
}

for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
