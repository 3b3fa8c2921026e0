/** A vote as it is held: a bar for each answer, a place for each candidate, and what the early end saved. */

import { $, count, make } from "./dom.js";
import { answer, rendered } from "./math.js";

/** Ballots that name no answer, each kind in a row of its own. */
const SILENT = { no_answer: "no answer", truncated: "cut off", lost: "lost", cancelled: "not needed" };

export class VoteView {
  #n = 0;
  #isEnsemble = false;
  #rows = new Map();
  #places = [];
  #received = [];

  begin(n, isEnsemble) {
    this.#n = n;
    this.#isEnsemble = isEnsemble;
    this.#rows.clear();
    this.#received = [];
    this.#places = Array.from({ length: n }, (_, index) => empty(index, "waiting", "waiting"));
    $("vote").classList.toggle("single", n === 1);
    $("vote-title").textContent = n === 1 ? "The reply" : "The vote";
    $("bars").replaceChildren();
    $("bars").classList.remove("settled");
    $("candidates").replaceChildren(...this.#places);
    $("verdict").replaceChildren(make("p", { class: "pending" }, n === 1 ? "One candidate, and no vote." : `Asking ${n} candidates…`));
    $("saved").hidden = $("told").hidden = $("thoughts-box").hidden = true;
    $("thoughts").replaceChildren();
    $("reply").replaceChildren(make("p", { class: "pending" }, n > 1 ? "The reply is held back until the vote is decided." : "…"));
  }

  /** One step of a vote under way. Returns what a listener should hear of it. */
  progress({ candidate, answer: leader, votes, agreement }) {
    this.#receive(candidate);
    this.#rank(leader);
    const here = `${this.#received.length} of ${this.#n} candidates are here`;
    if (leader === null) {
      $("verdict").replaceChildren(make("p", { class: "pending" }, here));
      return `${here}. No answer yet.`;
    }
    $("verdict").replaceChildren(
      make("p", { class: "answer pending" }, answer(leader)),
      make("p", { class: "facts" }, `leads, ${here}`));
    return `${here}. ${leader} leads with ${votes[leader]}, agreement ${percent(agreement)}.`;
  }

  /** `its` of the last chunk: the vote as it was decided. */
  end(its) {
    for (const candidate of its.candidates ?? []) this.#receive(candidate);
    this.#rank(its.answer);
    this.#settle();
    for (const [index, place] of this.#places.entries()) {
      if (place.dataset.state === "waiting") this.#place(index, empty(index, "cancelled", "never asked"));
    }
    $("verdict").replaceChildren(...verdict(its));
    const saved = savings(its);
    $("saved").hidden = !saved;
    $("saved").textContent = saved;
    $("told").hidden = false;
    $("its").textContent = JSON.stringify(its, null, 2);
  }

  /** Whatever stopped it: nobody waits any more. */
  abandon() {
    for (const [index, place] of this.#places.entries()) {
      if (place.dataset.state === "waiting") this.#place(index, empty(index, "stopped", "stopped"));
    }
    for (const pending of document.querySelectorAll("#vote .pending")) pending.remove();
  }

  #receive(candidate) {
    const known = this.#places[candidate.index]?.dataset.state;
    if (known && known !== "waiting") return;
    this.#received.push(candidate);
    this.#place(candidate.index, card(candidate, this.#isEnsemble));
    const label = candidate.answer ?? SILENT[candidate.state] ?? candidate.state;
    const isSilent = candidate.answer === null;
    this.#cast(this.#row(label, isSilent), candidate);
  }

  #place(index, element) {
    this.#places[index]?.replaceWith(element);
    this.#places[index] = element;
    if (!element.isConnected) $("candidates").append(element);
  }

  #row(label, isSilent) {
    const key = isSilent ? `(${label})` : label;
    if (!this.#rows.has(key)) {
      const row = make("li", { class: isSilent ? "bar silent" : "bar" },
        make("span", { class: "label" }, isSilent ? label : answer(label)),
        make("span", { class: "track", "aria-hidden": "true" }),
        make("span", { class: "total" }));
      this.#rows.set(key, row);
      // Answers stand above those who gave none.
      const firstSilent = isSilent ? null : $("bars").querySelector(".silent");
      $("bars").insertBefore(row, firstSilent);
    }
    return this.#rows.get(key);
  }

  /** While it grows every row keeps its place; in the end the heaviest comes first. */
  #settle() {
    const total = (row) => Number(row.querySelector(".total").textContent);
    const isSilent = (row) => row.classList.contains("silent");
    const isLeader = (row) => row.classList.contains("leader");
    const rows = [...this.#rows.values()].sort(
      (a, b) => isSilent(a) - isSilent(b) || isLeader(b) - isLeader(a) || total(b) - total(a));
    $("bars").classList.add("settled");
    $("bars").replaceChildren(...rows);
  }

  #cast(row, { index, weight }) {
    const ballot = make("span", { class: "ballot", title: `candidate ${index + 1}` }, String(index + 1));
    ballot.style.setProperty("--weight", weight);
    row.querySelector(".track").append(ballot);
    const total = row.querySelector(".total");
    total.textContent = Number(total.textContent) + weight;
    // Candidates still to come are taken to weigh 1 each, as all of them do but in some ensembles.
    const all = this.#received.reduce((sum, received) => sum + received.weight, this.#n - this.#received.length);
    $("bars").style.setProperty("--all", all);
  }

  /** The server counts, not this page: which answers are equal is decided there. */
  #rank(leader) {
    for (const [key, row] of this.#rows) row.classList.toggle("leader", key === leader);
  }
}

/** A place without a completion. */
function empty(index, state, words) {
  return make("li", { class: "candidate", "data-state": state }, head(index, words));
}

function card(candidate, isEnsemble) {
  const { index, state, text, answer: said, completion_tokens: tokens, finished_s: seconds, member } = candidate;
  const cost = [isEnsemble && member, tokens !== null && `${tokens} tokens`, seconds !== null && `${seconds.toFixed(2)} s`].filter(Boolean).join(" · ");
  const summary = [head(index, said === null ? SILENT[state] ?? state : answer(said)), make("span", { class: "cost" }, cost)];
  const body = text ? make("details", {}, make("summary", {}, ...summary), make("div", { class: "text" }, rendered(text))) : make("div", { class: "bare" }, ...summary);
  return make("li", { class: "candidate", "data-state": state }, body);
}

const head = (index, what) => make("span", { class: "head" }, make("span", { class: "number" }, `${index + 1}`), make("span", { class: "said" }, what));

function* verdict(its) {
  if (its.answer === null) {
    yield make("p", { class: "answer none" }, "no answer to vote on");
    yield make("p", { class: "facts" }, "The first whole reply is given as it is.");
    return;
  }
  const votes = its.votes[its.answer] ?? 0;
  const valid = Object.values(its.votes).reduce((sum, weight) => sum + weight, 0) + (its.abstained.no_answer ?? 0);
  yield make("p", { class: "answer" }, answer(its.answer));
  yield make("p", { class: "facts" },
    `${votes} of ${valid} valid candidates, agreement ${percent(its.agreement)}`,
    its.tie && make("b", { class: "tag warn" }, "tie"),
    !its.consensus && make("b", { class: "tag warn" }, "no consensus"),
    its.degraded && make("b", { class: "tag warn" }, its.degraded));
}

/** What is known of it: closed calls are only estimated, and those never begun cost nothing. */
function savings(its) {
  const neverBegun = its.n - its.n_started;
  const { candidates: closed, completion_tokens: counted, completion_tokens_estimated: estimated } = its.cancelled;
  const unneeded = neverBegun + closed;
  if (!unneeded) return "";
  const spent = counted ?? estimated;
  const finished = (its.candidates ?? []).map((candidate) => candidate.completion_tokens).filter((tokens) => tokens !== null);
  const mean = finished.reduce((sum, tokens) => sum + tokens, 0) / (finished.length || 1);
  const left = Math.max(0, Math.round(unneeded * mean - spent));
  const began = its.stopped === "no_answer" ? "No vote, as the first reply holds no short answer" : "Decided early";
  const parts = [closed && `${closed} stopped ${counted === null ? "after some" : "after"} ${count(spent, "token")}`, neverBegun && `${neverBegun} never begun`];
  const about = left ? ` That saved about ${count(left, "token")}, had they been as long as the others.` : "";
  return `${began}: ${unneeded} of ${count(its.n, "candidate")} not needed (${parts.filter(Boolean).join(", ")}).${about}`;
}

const percent = (share) => `${Math.round(share * 100)} %`;
