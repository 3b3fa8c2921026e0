"""A second opinion on accepted personas: what may be in one, told in other ways than its_proxy tells what may not."""

import re
from difflib import SequenceMatcher

from its_proxy.codesign import taxonomy

_ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ,.;'-")
_FORBIDDEN = ("sorry", "cannot", "can't", "answer", "ignore", "system", "boxed", "as an ai")
_SMALL = dict(
    enumerate(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], 2)
)


def complaint(text: str, strategy: str, domain: str, query: str, answer: str | None) -> str | None:
    """What is wrong with an accepted persona, or None."""
    words = re.sub(r"[^a-z ]", " ", text.lower()).split()
    if not 25 <= len(text) <= 400 or len(text.split(" ")) < 5 or text != text.strip():
        return "its length"
    if strange := set(text) - _ALLOWED:
        return f"characters that no plain sentence needs: {sorted(strange)!r}"
    if any(phrase in text.lower() for phrase in _FORBIDDEN):
        return "a phrase that no description holds"
    if {"you", "your", "yours", "yourself"} & set(words):
        return "it speaks to the reader"
    if answer is not None and (answer.lower() in words or _SMALL.get(_number(answer)) in words):
        return "the answer"
    asked = re.sub(r"[^a-z ]", " ", query.lower()).split()
    match = SequenceMatcher(None, words, asked, autojunk=False).find_longest_match()
    if match.size >= 8 or (asked and match.size == len(asked)):
        return "the query's words"
    if domain != taxonomy.GENERAL and not _touches(words, domain):
        return f"nothing of {domain}"
    if strategy == "similar" and domain != taxonomy.domain_of(query):
        return "not the query's domain"
    if strategy == "dissimilar":
        own = taxonomy.domain_named(taxonomy.domain_of(query))
        if taxonomy.domain_named(domain).group == own.group or _touches(words, own.name):
            return f"something of {own.name}, the query's own domain"
    return None


def _number(answer: str) -> int:
    return int(answer) if answer.isdigit() else -1


def _touches(words: list[str], domain: str) -> bool:
    keywords = taxonomy.domain_named(domain).keywords
    return any(word in keywords or word.removesuffix("s") in keywords for word in words)
