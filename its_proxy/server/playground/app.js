/** The page: what is asked, and what comes of it in which place. */

import { Api, Trouble } from "./api.js";
import { $, make, paced } from "./dom.js";
import { answer, rendered } from "./math.js";
import { showRewrite, showUnexplained } from "./rewrite.js";
import { VoteView } from "./vote.js";

const FORCED = ["none", "similar", "dissimilar", "random", "filler", "fixed", "shuffled"];
const DEMO = [
  "A chef keeps 21 onions. After that there are 3 times as many. Then the chef brings in 4 more. How many onions are there now?",
  "A gardener keeps 21 roses at the garden. Later the gardener picks 32 more. Later the gardener gives away 38 of them. How many roses are left in the end?",
];
const EXAMPLES = [
  "What is 17 * 23? Put the answer into \\boxed{}.",
  "A train covers 180 km in 2 h 15 min. What is its mean speed in km/h? Put the answer into \\boxed{}.",
];

const api = new Api();
const view = new VoteView();
let models = [];
let asking = null;
/** Rights that this key turned out to lack, as `its.explain` or `its.candidates`. */
let missing = new Set();

// -- what can be asked ----------------------------------------------------------------------------------------------

const chosen = () => models.find((model) => model.id === $("model").value);
const states = (model) => [model?.its?.handshake ?? "none"].flat();
const isPassedThrough = (model) => states(model).every((state) => state === "none");

/** Fills a list of choices; what was chosen of several stays so where it still can. */
function offer(select, options) {
  const before = select.length > 1 ? select.value : null;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  select.value = options.some(([value]) => value === before) ? before : options[0]?.[0] ?? "";
}

async function refresh() {
  try {
    models = await api.models();
    clearTrouble();
  } catch (error) {
    models = [];
    showTrouble(error);
  }
  // Those that are voted on first.
  const ranked = [...models].sort((a, b) => isPassedThrough(a) - isPassedThrough(b));
  offer($("model"), ranked.map(({ id }) => [id, id]));
  chooseModel();
  if (models.some((model) => states(model).includes("pending"))) setTimeout(refresh, 2000);
}

function chooseModel() {
  const model = chosen();
  const own = model?.its?.strategy ?? "by model";
  const canForce = model && !isPassedThrough(model) && !missing.has("its.force");
  offer($("strategy"), [
    ["", isPassedThrough(model) ? "passed through" : `as recorded (${own})`],
    ...FORCED.filter((name) => canForce && name !== own).map((name) => [name, `${name}, forced`])]);
  $("strategy").disabled = !canForce;
  $("n").placeholder = model?.its?.n ?? "";
  $("n").disabled = isPassedThrough(model);
  $("handshake").replaceChildren(...(model ? badges(model) : []));
  $("strategy-help").textContent = missing.has("its.force") ? "This key may not force another strategy." : "";
  const examples = model?.id.startsWith("demo-") ? DEMO : EXAMPLES;
  $("examples").replaceChildren(...examples.map((text, number) =>
    make("button", { type: "button", class: "chip", title: text, onclick: () => fill(text) }, `example ${number + 1}`)));
  chooseBeside(model);
}

/** What the same question can be asked beside the vote. */
function chooseBeside(model) {
  const options = [["", "nothing"]];
  if (model && !isPassedThrough(model)) {
    options.unshift(["once", "asked once, no vote"]);
    const hasPersona = model.its.strategy !== "none";
    if (hasPersona && !missing.has("its.force")) options.splice(1, 0, ["bare", "asked once, no persona"]);
  }
  options.push(...models.filter((other) => other !== model && isPassedThrough(other)).map(({ id }) => [`=${id}`, id]));
  offer($("beside"), options);
}

function badges(model) {
  const WORDS = { verified: "verified", unverified: "unverified", pending: "being checked", mismatch: "mismatch", none: "no manifest" };
  const marks = [...new Set(states(model))].map((state) => make("b", { class: `badge ${state}` }, WORDS[state] ?? state));
  const why = model.its?.reason ?? model.its?.advice;
  return [make("span", {}, "Handshake: "), ...marks, why ? ` ${why}` : ""];
}

function fill(text) {
  $("query").value = text;
  $("query").focus();
}

// -- asking ---------------------------------------------------------------------------------------------------------

async function ask() {
  const query = $("query").value.trim();
  const model = chosen();
  if (asking || !query || !model) return $("query").focus();
  asking = new AbortController();
  clearTrouble();
  begin();
  const works = [askVote(query, model, asking.signal), askBeside(query, model, asking.signal)];
  const [voted, plain] = await Promise.allSettled(works);
  for (const { reason } of [voted, plain]) if (reason) failed(reason);
  compare(voted.value, plain.value);
  asking = null;
  $("go").textContent = "Ask";
  $("results").removeAttribute("aria-busy");
}

function begin() {
  $("go").textContent = "Stop";
  $("results").hidden = true; // until there is something to show
  $("results").setAttribute("aria-busy", "true");
  $("status").textContent = "Asking.";
}

function failed(error) {
  view.abandon();
  if (error.name === "AbortError") $("status").textContent = "Stopped: every candidate was cancelled.";
  else showTrouble(error);
}

async function askVote(query, model, signal) {
  const body = { model: model.id, messages: [{ role: "user", content: query }] };
  if (isPassedThrough(model)) {
    showUnexplained($("sent-body"), query, "This model has no manifest: the query goes on as it is, and nothing is voted on.");
    show(1);
    return vote(body, signal);
  }
  const its = wishes();
  const plan = await explained(body, its, query, signal);
  show(plan?.n ?? (Number($("n").value) || model.its?.n || 1), plan?.members.length > 1);
  if (plan) body.seed = plan.seeds[0]; // what was explained is what is asked
  const asked = { ...body, its: { ...its, stream: "leader", candidates: true } };
  return without("its.candidates", asked, (allowed) => vote(allowed, signal));
}

function wishes() {
  const strategy = $("strategy").value;
  return { ...($("n").value && { n: Number($("n").value) }), ...(strategy && { strategy, force: true }) };
}

async function explained(body, its, query, signal) {
  if (!missing.has("its.explain")) {
    try {
      const plan = await api.complete({ ...body, its: { ...its, explain: true } }, signal);
      showRewrite($("sent-body"), plan, query);
      return plan;
    } catch (error) {
      if (error.param !== "its.explain") throw error;
      missing.add("its.explain");
    }
  }
  showUnexplained($("sent-body"), query, "This key may not have the rewrite explained.");
  return null;
}

/** Asks, and once more without a wish that the key turned out to have no right to. */
async function without(param, body, work) {
  const key = param.slice("its.".length);
  const { [key]: wish, ...its } = body.its;
  if (missing.has(param)) return work({ ...body, its });
  try {
    return await work(body);
  } catch (error) {
    if (error.param !== param) throw error;
    missing.add(param);
    return work({ ...body, its });
  }
}

async function vote(body, signal) {
  let text = "", thoughts = "", its = null;
  const showText = paced(() => $("reply").replaceChildren(rendered(text)));
  const showThought = paced(() => showThoughts(thoughts));
  for await (const event of api.stream(body, signal)) {
    const delta = event.choices?.[0]?.delta ?? {};
    const thought = delta.reasoning ?? delta.reasoning_content;
    if (thought) showThought((thoughts += thought));
    if (delta.content) showText((text += delta.content));
    if (event.its?.progress) $("status").textContent = view.progress(event.its.progress);
    else its = event.its ?? its;
  }
  if (its) view.end(its);
  else view.abandon();
  $("status").textContent = its?.answer ? `The vote is decided: ${its.answer}.` : "The reply is here.";
  return its?.answer;
}

function show(n, isEnsemble = false) {
  view.begin(n, isEnsemble);
  $("results").hidden = false;
}

function showThoughts(text) {
  $("thoughts-box").hidden = false;
  $("thoughts").textContent = text.trimEnd();
  $("thoughts").scrollTop = $("thoughts").scrollHeight;
}

async function askBeside(query, model, signal) {
  const wish = $("beside").value;
  $("plain").hidden = !wish;
  if (!wish) return;
  const body = { model: wish.startsWith("=") ? wish.slice(1) : `${model.id}:its-off`, messages: [{ role: "user", content: query }] };
  if (wish === "bare") body.its = { strategy: "none", force: true };
  $("plain-title").textContent = wish.startsWith("=") ? wish.slice(1) : "Asked once";
  $("plain-what").textContent = {
    once: `The same ${model.its?.members ? "rewrite, by the first member" : "model and rewrite"}, one candidate and no vote. It is one draw: another may differ.`,
    bare: "The same model without its persona, one candidate and no vote. Forced: not as the pair was trained.",
  }[wish] ?? "Another model, passed through as it is.";
  $("plain-verdict").replaceChildren(make("p", { class: "pending" }, "…"));
  $("plain-reply").replaceChildren();
  try {
    return showBeside(await api.complete(body, signal));
  } catch (error) {
    $("plain-verdict").replaceChildren(make("p", { class: "facts" }, error.name === "AbortError" ? "Stopped." : error.message));
    if (error.param === "its.force") missing.add("its.force");
    else if (error.name === "AbortError" || error.status === 0 || error.status === 401) throw error;
  }
}

function showBeside({ choices, its, usage }) {
  const [{ message }] = choices;
  const cost = usage?.completion_tokens ? `${usage.completion_tokens} tokens` : "";
  const said = its && make("p", { class: "answer" }, its.answer === null ? "no answer" : answer(its.answer));
  $("plain-verdict").replaceChildren(...[said, make("p", { class: "facts" }, cost)].filter(Boolean));
  $("plain-reply").replaceChildren(rendered(message.content ?? ""));
  return its?.answer;
}

/** Two answers as they were read: written differently they may still be equal, and that is not judged here. */
function compare(voted, plain) {
  if (!voted || !plain) return;
  const words = voted === plain ? "the same answer as the vote" : "the vote reads otherwise";
  $("plain-verdict").append(make("b", { class: voted === plain ? "tag" : "tag warn" }, words));
}

// -- what goes wrong ------------------------------------------------------------------------------------------------

function showTrouble(error) {
  const known = error instanceof Trouble ? error : new Trouble("This page failed.", `${error.name}: ${error.message}`);
  if (known.param === "its.force") {
    missing.add("its.force");
    chooseModel();
  }
  $("trouble").hidden = false;
  $("trouble").replaceChildren(make("strong", {}, known.message), known.advice ? ` ${known.advice}` : "");
  $("status").textContent = "";
  if (known.status === 401) $("key").focus();
}

function clearTrouble() {
  $("trouble").hidden = true;
}

// -- the page's own switches ----------------------------------------------------------------------------------------

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (asking) asking.abort();
  else ask();
});
$("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") asking?.abort();
});
$("model").addEventListener("change", chooseModel);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("query").focus();
});
$("key").addEventListener("change", () => {
  api.key = $("key").value.trim();
  missing = new Set();
  refresh();
});
$("theme").addEventListener("change", () => {
  document.documentElement.dataset.theme = $("theme").value;
});

refresh();
