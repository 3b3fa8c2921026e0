/** The few ways in which this page touches its document: text is always text, never markup. */

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `hidden`, ...; `data-` and `aria-` as attributes) and children, texts among them. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "class" || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** `n` of something, in words: `1 candidate`, `3 candidates`. */
export const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** Work that is asked for often, done at most once a frame. */
export function paced(work) {
  let due = 0;
  return () => {
    due ||= requestAnimationFrame(() => {
      due = 0;
      work();
    });
  };
}
