/** Text with mathematics in it -> nodes. KaTeX sets what stands between delimiters, and `\boxed{...}` anywhere. */

const OPENINGS = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false], ["$", "$", false]];
const OPTIONS = { throwOnError: false, trust: false, maxSize: 20, maxExpand: 200, strict: false };

export function rendered(text) {
  const nodes = document.createDocumentFragment();
  for (const part of split(text ?? "")) nodes.append(part.tex === undefined ? part.text : formula(part.tex, part.display));
  return nodes;
}

/** A short answer: always mathematics, unless it is words. */
export function answer(text) {
  return /\p{L}{3,}/u.test(text.replace(/\\[a-zA-Z]+/g, "")) ? document.createTextNode(text) : formula(text, false);
}

function formula(tex, display) {
  const place = document.createElement("span");
  // Without KaTeX (blocked, or not loaded yet) the source is still readable.
  if (globalThis.katex) globalThis.katex.render(tex, place, { ...OPTIONS, displayMode: display });
  else place.textContent = tex;
  return place;
}

function* split(text) {
  let plain = 0;
  for (let at = 0; at < text.length; ) {
    const found = boxed(text, at) ?? delimited(text, at);
    if (!found) { at += 1; continue; }
    if (at > plain) yield { text: text.slice(plain, at) };
    yield found;
    // A displayed formula is a line of its own: what ends that line in the source is not shown again.
    const gap = found.display ? /^[ \t]*\n?/.exec(text.slice(found.end))[0].length : 0;
    at = plain = found.end + gap;
  }
  if (plain < text.length) yield { text: text.slice(plain) };
}

/** `\boxed{...}` with balanced braces. */
function boxed(text, at) {
  if (!text.startsWith("\\boxed{", at)) return null;
  let depth = 0;
  for (let end = at + 6; end < text.length; end += 1) {
    if (text[end] === "\\") end += 1;
    else if (text[end] === "{") depth += 1;
    else if (text[end] === "}" && --depth === 0) return { tex: text.slice(at, end + 1), display: false, end: end + 1 };
  }
  return null;
}

function delimited(text, at) {
  for (const [open, close, display] of OPENINGS) {
    if (!text.startsWith(open, at)) continue;
    const end = text.indexOf(close, at + open.length);
    const tex = end < 0 ? "" : text.slice(at + open.length, end);
    // A lone dollar is money: mathematics neither begins nor ends with a space, nor goes over lines.
    const isMoney = open === "$" && (/^\s|\s$|\n/.test(tex) || /\d/.test(text[end + 1] ?? ""));
    if (tex.trim() && !isMoney) return { tex, display, end: end + close.length };
  }
  return null;
}
