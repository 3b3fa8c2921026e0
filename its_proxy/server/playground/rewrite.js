/** The query before and after its rewrite: what was added is the persona, and marked. */

import { make } from "./dom.js";

/** `plan`: what `its: {"explain": true}` told. */
export function showRewrite(place, plan, query) {
  place.replaceChildren(...plan.members.map((member) => reading(member, query, plan.members.length > 1)));
}

/** Where the key may not have it explained. */
export function showUnexplained(place, query, why) {
  place.replaceChildren(make("p", { class: "help" }, why), bubble("user", [query]));
}

function reading(member, query, isOneOfSeveral) {
  const messages = member.messages.map((message, position) => {
    const isLast = position === member.messages.length - 1;
    return bubble(message.role, isLast ? marked(textOf(message), query) : [textOf(message)]);
  });
  const last = textOf(member.messages.at(-1));
  const note = last === query ? "Nothing is added: the query goes as it is." : `${words(last) - words(query)} words are added, the query's own stay as they are.`;
  const strategy = member.strategy ?? "none";
  return make("div", { class: "reading" },
    make("p", { class: "help" },
      isOneOfSeveral && make("strong", {}, `${member.model} `),
      "strategy ", make("b", { class: "tag" }, strategy), member.forced ? make("b", { class: "tag warn" }, "forced") : "", ` ${note}`),
    make("div", { class: "before-after" },
      make("div", {}, make("h3", {}, "Before"), bubble("user", [query])),
      make("div", {}, make("h3", {}, "After"), ...messages)));
}

/** The texts around the query are what the strategy added. */
function marked(text, query) {
  const at = text.indexOf(query);
  if (at < 0) return [make("mark", {}, text)];
  return [...added(text.slice(0, at)), query, ...added(text.slice(at + query.length))];
}

/** The white space around it is no part of what is marked. */
function added(text) {
  const words = text.trim();
  if (!words) return [text];
  const [before, after] = text.split(words);
  return [before, make("mark", { title: "added by the strategy" }, words), after];
}

const bubble = (role, parts) => make("div", { class: `bubble ${role}` }, make("span", { class: "role" }, role), make("div", { class: "text" }, ...parts));

const textOf = ({ content }) => (typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? `[${part.type}]`).join(""));

const words = (text) => text.split(/\s+/).filter(Boolean).length;
