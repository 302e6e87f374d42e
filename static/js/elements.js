// Elements made in one line.

/** element("li", "name", "text", another): attributes but the class are for the caller to set. */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}
