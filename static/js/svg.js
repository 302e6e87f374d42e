// Parts of pictures: made once, then changed where something is another.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Sets an attribute, or the text for null, where it is another. */
export function set(element, name, value) {
  if (name === null) {
    if (element.textContent !== value) element.textContent = value;
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}
