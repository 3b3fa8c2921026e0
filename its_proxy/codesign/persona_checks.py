"""Whether what a persona writer sent may stand before a query: read strictly, checked, refused with advice.

    >>> asked = Asked("cooking", "similar", query="How many of the 42 eggs are left?")
    >>> judge('{"persona": "A baker who counts all 42 eggs twice.", "domain": "cooking"}', asked).reason.value
    'digits'

The same checks hold for a pool that is being written and for a writer that is asked live. Nothing is
repaired: a text is accepted as it came, or it is not accepted.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from its_proxy.codesign import taxonomy
from its_proxy.codesign.canonical import strict_json
from its_proxy.codesign.personas import Persona

MIN_WORDS, MIN_CHARACTERS, MAX_CHARACTERS = 5, 25, 400
ECHO_WORDS = 8


class Reason(StrEnum):
    """Why a reply is refused, in the order in which it is looked at."""

    TRUNCATED = "truncated"
    NOT_JSON = "not JSON"
    EMPTY = "empty"
    SURROGATE = "lone surrogate"
    TOO_LONG = "too long"
    ANSWER = "answer"
    INJECTION = "injection"
    REFUSAL = "refusal"
    DIGITS = "digits"
    ECHO = "echo"
    TOO_SHORT = "too short"
    ADDRESS = "second person"
    WRONG_DOMAIN = "wrong domain"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a persona was asked for. A persona of a domain alone has no `query`; `answer` is the query's right one."""

    domain: str
    strategy: str
    query: str = ""
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """`advice` is one sentence to the writer, for its next try."""

    reason: Reason
    advice: str


def judge(reply: str, asked: Asked) -> Persona | Rejection:
    """The persona that a writer's whole reply holds, or the first reason to refuse it."""
    persona = read_reply(reply)
    if isinstance(persona, Rejection):
        return persona
    return check(persona, asked) or persona


def read_reply(reply: str) -> Persona | Rejection:
    """Reads `{"persona", "domain"}` and nothing else; thinking before it and a code fence around it are let pass."""
    text = reply.rpartition("</think>")[2].strip()
    if not text:
        return Rejection(Reason.EMPTY, "The reply was empty.")
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n\s*```", text, re.DOTALL)
    try:
        document = strict_json((fenced[1] if fenced else text).encode("utf-8", "surrogatepass"))
    except ValueError as error:
        if _REFUSAL.search(text[:200]):
            return Rejection(Reason.REFUSAL, "Only a description of an ordinary person is asked for.")
        # The error may quote the writer, half characters and all.
        said = str(error).encode("ascii", "replace").decode()[:200]
        return Rejection(Reason.NOT_JSON, f"The reply was not one JSON object: {said}.")
    if not isinstance(document, dict) or document.keys() != {"persona", "domain"}:
        return Rejection(Reason.NOT_JSON, 'The JSON object must hold "persona" and "domain", and nothing else.')
    text, domain = document["persona"], document["domain"]
    if not isinstance(text, str) or not isinstance(domain, str):
        return Rejection(Reason.NOT_JSON, '"persona" and "domain" must be strings.')
    return Persona(text.strip(), domain)


def check(persona: Persona, asked: Asked) -> Rejection | None:
    """The first check that `persona` fails, or None."""
    folded = Persona(_folded(persona.text), persona.domain)
    for reason, fails in _CHECKS:
        # Controls, surrogates and odd numerals are looked for in the text as it came: folding may lose them.
        advice = fails(persona if reason in _VERBATIM else folded, asked)
        if advice is not None:
            return Rejection(reason, advice)
    return None


def _folded(text: str) -> str:
    """Full-width letters and digits, ligatures and the like as plain ones, so that none of them hides."""
    return unicodedata.normalize("NFKC", text)


def _empty(persona: Persona, asked: Asked) -> str | None:
    return None if persona.text else "The persona was empty."


def _surrogate(persona: Persona, asked: Asked) -> str | None:
    is_odd = any("\ud800" <= character <= "\udfff" for character in persona.text)
    return "The persona held half a character." if is_odd else None


_MARKUP = re.compile(
    # Tags and chat tokens of any family, full-width bars included; headings, fences and braces; a role that takes over.
    r"[<>\uff5c{}\[\]`|]|##|\b(?:system|assistant|user|human|ai|developer)\s*:|\\(?!boxed)"
    r"|\b(?:ignore|disregard|forget)\b.{0,30}\b(?:instructions?|prompts?|above|previous|question)\b",
    re.IGNORECASE,
)
# Controls (line breaks too), invisible marks, private and unassigned characters.
_UNSEEN = frozenset(("Cc", "Cf", "Co", "Cn", "Zl", "Zp"))


def _injection(persona: Persona, asked: Asked) -> str | None:
    # "\n\nHuman:" and its like begin with a line break, and one paragraph needs none.
    if any(unicodedata.category(character) in _UNSEEN for character in persona.text):
        return "The persona must be one paragraph of plain characters."
    if _MARKUP.search(persona.text) or _MARKUP.search(_folded(persona.text)):
        return "The persona must hold no markup, no role names with a colon and no instructions."
    return None


_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)\s+(?:very\s+|so\s+|really\s+)?(?:sorry|afraid|unable)|as an ai\b|language model"
    r"|i\s+(?:can(?:'t|not)|can not|won't|will not|must decline|apologi[sz]e)"
    r"|(?:unable|not able) to (?:assist|help|comply))",
    re.IGNORECASE,
)


def _refusal(persona: Persona, asked: Asked) -> str | None:
    is_refusal = _REFUSAL.search(persona.text.replace("\u2019", "'"))
    return "Only a description of an ordinary person is asked for." if is_refusal else None


def _too_short(persona: Persona, asked: Asked) -> str | None:
    is_short = len(persona.text) < MIN_CHARACTERS or len(persona.text.split()) < MIN_WORDS
    return "The persona was too short: one to three sentences are asked for." if is_short else None


def _too_long(persona: Persona, asked: Asked) -> str | None:
    n = len(persona.text)
    return f"The persona had {n} characters; at most {MAX_CHARACTERS}." if n > MAX_CHARACTERS else None


_VERDICT = re.compile(
    r"\\boxed|\b(?:final |right |correct )?(?:answer|solution|result)\s+(?:is|was|equals|=)", re.IGNORECASE
)


def _answer(persona: Persona, asked: Asked) -> str | None:
    advice = "The persona must not hold or hint at the answer to any question."
    if _VERDICT.search(persona.text):
        return advice
    for answer in _spellings(asked.answer):
        if re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", " ".join(persona.text.casefold().split())):
            return advice
    return None


def _spellings(answer: str | None) -> tuple[str, ...]:
    """How a text may give an answer away. A letter alone is a choice, and "a" or "i" is in every text."""
    plain = " ".join(_folded(answer or "").casefold().split()).strip(" $.")
    if len(plain) < 2 and not plain.isdigit():
        return ()
    whole = re.fullmatch(r"(\d{1,6})(?:\.0+)?", plain.replace(",", ""))
    return (plain, whole[1], *_in_words(int(whole[1]))) if whole else (plain,)


_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def _in_words(number: int) -> tuple[str, ...]:
    """Two to 99 in words; larger ones are hardly ever spelled, and "one" and "zero" are words of their own."""
    if not 2 <= number < 100:
        return ()
    if number < 20:
        return (_ONES[number],)
    tens, one = _TENS[number // 10 - 2], number % 10
    return (f"{tens}-{_ONES[one]}", f"{tens} {_ONES[one]}") if one else (tens,)


def _digits(persona: Persona, asked: Asked) -> str | None:
    """Any digit, not the query's alone: a pool gives the same persona to queries that the writer never saw."""
    has_digit = any(character.isdigit() or character.isnumeric() for character in persona.text)
    return "The persona must hold no numbers." if has_digit else None


_WORD = re.compile(r"\w+")


def _echo(persona: Persona, asked: Asked) -> str | None:
    said, query = (_WORD.findall(_folded(text).casefold()) for text in (persona.text, asked.query))
    length = min(ECHO_WORDS, len(query))
    if not length:
        return None
    grams = {tuple(query[start : start + length]) for start in range(len(query) - length + 1)}
    echoes = any(tuple(said[start : start + length]) in grams for start in range(len(said) - length + 1))
    return "The persona must not repeat the question's words." if echoes else None


# What speaks to the reader can instruct it, and a persona must only describe.
_ADDRESS = re.compile(r"\b(?:you|your|yours|yourself|yourselves)\b", re.IGNORECASE)


def _address(persona: Persona, asked: Asked) -> str | None:
    return "Describe the person in the third person; never say you or your." if _ADDRESS.search(persona.text) else None


def _wrong_domain(persona: Persona, asked: Asked) -> str | None:
    """The label must be the domain asked for, and the words must bear it out: a label alone is only a claim."""
    if persona.domain != asked.domain:
        return f'"domain" must be "{asked.domain}".'
    scores = taxonomy.relatedness(persona.text)
    if asked.domain != taxonomy.GENERAL and asked.domain not in scores:
        return f"The person must belong to {asked.domain}: use at least one of the listed words."
    if asked.strategy == "dissimilar":
        own = taxonomy.domain_of(asked.query)
        if asked.domain not in taxonomy.unrelated_domains(asked.query) or own in scores:
            return f"The person must have nothing to do with {own}, in no word."
    return None


_Check = Callable[[Persona, Asked], str | None]
"""What is wrong, as advice to the writer; None where nothing is."""

_CHECKS: tuple[tuple[Reason, _Check], ...] = (
    (Reason.EMPTY, _empty),
    (Reason.SURROGATE, _surrogate),
    (Reason.TOO_LONG, _too_long),
    (Reason.ANSWER, _answer),
    (Reason.INJECTION, _injection),
    (Reason.REFUSAL, _refusal),
    (Reason.DIGITS, _digits),
    (Reason.ECHO, _echo),
    (Reason.TOO_SHORT, _too_short),
    (Reason.ADDRESS, _address),
    (Reason.WRONG_DOMAIN, _wrong_domain),
)
_VERBATIM = frozenset((Reason.EMPTY, Reason.SURROGATE, Reason.TOO_LONG, Reason.INJECTION, Reason.DIGITS))
