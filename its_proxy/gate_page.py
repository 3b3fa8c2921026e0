"""A gate's verdict for people (Markdown) and for CI systems (JUnit XML)."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from its_proxy import __version__
from its_proxy.gate import METHOD, N_SHOWN, Side, Verdict
from its_proxy.statistics import Estimate

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def sentence(verdict: Verdict) -> str:
    """The verdict in one line."""
    margin = f"{100 * verdict.margin:g} points"
    said = {
        "pass": f"NEW is at most {margin} worse",
        "fail": f"NEW is more than {margin} worse",
        "undecided": f"whether NEW is more than {margin} worse cannot be told",
    }[verdict.decision]
    return f"{verdict.decision.upper()}: {said}: {verdict.metric} new - old {_points(verdict.difference)}"


def advice(verdict: Verdict) -> str | None:
    """How many items would decide, where these do not."""
    if verdict.decision != "undecided":
        return None
    told = [
        f"{n:,} items {why}"
        for n, why in (
            (verdict.n_if_equal, "if both are equally good"),
            (verdict.n_if_as_seen, "if the difference is the one seen"),
        )
        if n is not None
    ]
    return f"needed for a decision in 80 of 100 gates: {', '.join(told) or 'more items than can be told'}"


def as_markdown(verdict: Verdict) -> str:
    """A page to put into a job's summary."""
    return "\n".join(_page(verdict)) + "\n"


def _page(verdict: Verdict) -> Iterator[str]:
    yield f"## Gate: {verdict.decision}"
    yield ""
    yield sentence(verdict) + "."
    if (told := advice(verdict)) is not None:
        yield ""
        yield told[0].upper() + told[1:] + "."
    yield ""
    yield f"| | model | pair | strategy | n | T | seed | {verdict.metric} |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, side in (("new", verdict.new), ("old", verdict.old)):
        yield "| " + " | ".join([name, *_cells(side)]) + " |"
    yield f"| new - old | | | | | | | {_points(verdict.difference)} |"
    yield ""
    yield (
        f"{verdict.n_items} items; better on {len(verdict.won)}, worse on {len(verdict.lost)}. Method: {METHOD}; it "
        f"covers items and candidates, not training seeds. {verdict.equality} its-proxy {__version__}."
    )
    for remark in verdict.remarks:
        yield ""
        yield f"Asked in different ways: {remark}."
    if verdict.lost:
        yield ""
        yield f"Worse on: {_listed(verdict.lost)}."


def as_junit(verdict: Verdict) -> bytes:
    """One test suite with one test: passed, failed, or skipped where undecided."""
    is_failed, is_skipped = verdict.decision == "fail", verdict.decision == "undecided"
    counts = {"tests": "1", "failures": str(int(is_failed)), "errors": "0", "skipped": str(int(is_skipped))}
    suites = ElementTree.Element("testsuites", {"name": "its-proxy gate", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "gate", "time": "0", **counts})
    name = f"{verdict.metric} at most {100 * verdict.margin:g} points worse than {verdict.old.model}"
    named = {"classname": _clean(verdict.new.model), "name": _clean(name), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", named)
    if is_failed:
        failure = ElementTree.SubElement(case, "failure", {"message": sentence(verdict), "type": "gate"})
        failure.text = _clean(f"worse on: {_listed(verdict.lost)}")
    if is_skipped:
        ElementTree.SubElement(case, "skipped", {"message": f"{sentence(verdict)}; {advice(verdict)}"})
    ElementTree.SubElement(case, "system-out").text = _clean(as_markdown(verdict))
    ElementTree.indent(suites)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _clean(text: str) -> str:
    """Names and ids are anybody's; XML has no way to write some characters."""
    return _NOT_XML.sub("\ufffd", text)


def _cells(side: Side) -> list[str]:
    strategy = (side.strategy or "several") + (" (forced)" if side.is_forced else "")
    temperature = "" if side.temperature is None else f"{side.temperature:g}"
    seed = "" if side.seed is None else str(side.seed)
    return [side.model, (side.pair_id or "")[:8], strategy, str(side.n), temperature, seed, str(side.value)]


def _points(difference: Estimate) -> str:
    value, low, high = (100 * number for number in difference)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}] points"


def _listed(ids: tuple[str, ...]) -> str:
    more = f" and {len(ids) - N_SHOWN} more" if len(ids) > N_SHOWN else ""
    return ", ".join(ids[:N_SHOWN]) + more
