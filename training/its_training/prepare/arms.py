"""Writes arms: the same records in the same order, only the user's text differs by strategy.

Rewriting is `its_proxy.codesign`'s, so a training row holds the very messages that the proxy sends.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from its_proxy.codesign import taxonomy
from its_proxy.codesign.errors import ConfigError, ManifestError
from its_proxy.codesign.manifest import Personas, Side, WrittenBy, recipe_of
from its_proxy.codesign.personas import Pool, taxonomy_pool
from its_proxy.codesign.strategies import DEFAULT_TEMPLATE, Recipe, rewrite, strategy_named
from its_training.prepare.layouts import Record

TEMPLATE_GENERATOR = f"template personas ({taxonomy.VERSION})"


@dataclass(frozen=True, slots=True)
class PersonaSource:
    """A pool and how a manifest names it. `prompts` are the files of the prompts folder, beside the pool."""

    pool: Pool
    personas: Personas
    pool_data: bytes | None = None
    prompts: Mapping[str, bytes] | None = None

    @property
    def generator(self) -> str:
        """What a row says of its persona."""
        if self.personas.source == "taxonomy":
            return TEMPLATE_GENERATOR
        written_by = self.personas.written_by
        return f"llm/{written_by.model}" if written_by is not None else f"pool {self.personas.file}"


def template_source() -> PersonaSource:
    pool = taxonomy_pool()
    return PersonaSource(pool, Personas(source="taxonomy", sha256=pool.sha256, domains="taxonomy/1"))


def pool_source(data: bytes, file: str, written_by: WrittenBy | None, prompts: Mapping[str, bytes]) -> PersonaSource:
    """A frozen pool. Raises ManifestError for one that cannot be read."""
    pool = Pool.from_jsonl(data)
    if written_by is None:
        personas = Personas(source="pool", file=file, sha256=pool.sha256)
    else:
        personas = Personas(source="pool", file=file, sha256=pool.sha256, written_by=written_by)
    return PersonaSource(pool, personas, data, prompts)


@dataclass(frozen=True, slots=True)
class Arm:
    """A named way to rewrite the records."""

    name: str
    side: Side
    recipe: Recipe
    generator: str
    longest_addition: int = 0
    """Bytes that it adds to a query, at most."""

    def row(self, record: Record, completion: str, source: Mapping[str, Any]) -> dict[str, Any]:
        """One training row: equal in all arms but for the user message and `persona`."""
        query = {"role": "user", "content": record.query}
        rewritten = rewrite(self.recipe, [query], row_id=record.id)
        persona = rewritten.personas.get(0)
        return {
            "id": record.id,
            "messages": [*rewritten.messages, {"role": "assistant", "content": completion}],
            "query": record.query,
            "answer": record.answer,
            "persona": {
                "strategy": self.side.strategy,
                "text": persona.text if persona else None,
                "domain": persona.domain if persona else None,
                "target_domain": taxonomy.domain_of(record.query),
                "generator": self.generator if persona else None,
                "seed": self.side.seed,
            },
            "source": dict(source),
        }


def arm(name: str, source: PersonaSource, seed: int, template: str, system_prompt: str | None) -> Arm:
    """The arm of a strategy's name. Raises ConfigError."""
    try:
        is_plain = strategy_named(name).family == "none"
        side = Side(
            strategy=name,
            version=1,
            template=DEFAULT_TEMPLATE if is_plain else template,
            turns="all",
            # A plain arm names no personas: nothing of theirs may change its pair id.
            personas=None if is_plain else source.personas,
            system_prompt=system_prompt,
            chat_template_sha256=None,
            chat_template_kwargs={},
            seed=seed,
        )
        recipe = recipe_of(side, None if is_plain else source.pool)
    except ManifestError as error:
        raise ConfigError(f"arm {name!r}: {error.message}", hint=error.hint) from None
    longest = 0 if is_plain else max(len(persona.text.encode()) for persona in source.pool.personas)
    return Arm(name, side, recipe, source.generator, longest + len(template) + len((system_prompt or "").encode()))


def arms(names: Sequence[str], source: PersonaSource, seed: int, template: str, system: str | None) -> list[Arm]:
    return [arm(name, source, seed, template, system) for name in dict.fromkeys(names)]


def pool_files(source: PersonaSource, folder: Path) -> Iterator[tuple[Path, bytes]]:
    """What has to lie beside the rows so that the arms' sides can be opened."""
    if source.pool_data is None or source.personas.file is None:
        return
    yield folder / source.personas.file, source.pool_data
    written_by = source.personas.written_by
    if written_by is not None and written_by.prompts is not None:
        for name, data in (source.prompts or {}).items():
            yield folder / written_by.prompts.folder / name, data
