// A button with data-ask="id" opens the dialog of that id, which asks before something is lost.

document.addEventListener("click", (click) => {
  const button = click.target.closest?.("[data-ask]");
  if (button) document.getElementById(button.dataset.ask).showModal();
});
