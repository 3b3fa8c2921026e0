"""Our prompts for a persona writer, as files that travel verbatim with the pool that they wrote."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.checkpoint import folder_digest
from its_proxy.codesign import taxonomy
from its_proxy.codesign.personas import Draw
from its_training.personas.tasks import PER_DOMAIN, Task

FOLDER = Path(__file__).parent / "prompts"
_FILES = {"dissimilar": "away_from_query.txt", "random": "for_domain.txt", PER_DOMAIN: "for_domain.txt"}
MAX_QUOTED = 1_500


@dataclass(frozen=True, slots=True)
class Prompts:
    """The texts by file name, and the digest that a pair names their folder by."""

    texts: Mapping[str, str]
    sha256: str

    def messages(self, task: Task) -> list[dict[str, str]]:
        """The first question to the writer. `random` does not show the query: its persona must not depend on it."""
        asked = task.asked
        domain = taxonomy.domain_named(asked.domain)
        draw = Draw(task.seed, task.strategy, task.number, asked.query or asked.domain)
        values = {
            "query": asked.query,
            "domain": asked.domain,
            "own": taxonomy.domain_of(asked.query),
            "words": ", ".join(sorted(domain.keywords)) or "any",
            "role": domain.roles[(draw.number("role") + task.number) % len(domain.roles)],
            "trait": taxonomy.TRAITS[draw.number("trait") % len(taxonomy.TRAITS)],
        }
        user = _filled(self.texts[_FILES.get(task.strategy, "for_query.txt")], values)
        return [{"role": "system", "content": self.texts["system.txt"]}, {"role": "user", "content": user}]

    def again(self, reply: str, advice: str) -> list[dict[str, str]]:
        """What follows a refused reply: the reply itself, cut where it is huge, and what was wrong with it."""
        quoted = reply[:MAX_QUOTED]
        question = _filled(self.texts["ask_again.txt"], {"advice": advice})
        return [{"role": "assistant", "content": quoted or "(nothing)"}, {"role": "user", "content": question}]

    def response_format(self) -> dict[str, Any]:
        schema = json.loads(self.texts["schema.json"])
        return {"type": "json_schema", "json_schema": {"name": "persona", "strict": True, "schema": schema}}


def packaged_prompts() -> Prompts:
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())}
    return Prompts(texts, folder_digest(FOLDER))


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Each place once, in one pass: a query that happens to hold "{domain}" is never expanded."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)
