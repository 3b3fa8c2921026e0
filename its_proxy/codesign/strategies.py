"""The strategies: named, versioned rules that give a query its persona, and the two ways to drive them.

A strategy is a generator. It yields what it needs from a persona writer and receives text; with a
frozen pool at hand it yields nothing and just returns. Training drives it with `rewrite`, the proxy
with `rewrite_async`: the same generator, so the same bytes.

    >>> recipe = Recipe(strategy_named("similar"), pool=taxonomy_pool(), seed=7)
    >>> rewrite(recipe, [{"role": "user", "content": "How many eggs?"}]).messages[0]["content"]
    'You are a recipe writer, ...\\n\\nHow many eggs?'
"""

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from its_proxy.codesign import taxonomy
from its_proxy.codesign.errors import ManifestError, StrategyNotApplicable, StrategyUnavailable
from its_proxy.codesign.light import light
from its_proxy.codesign.personas import Draw, Persona, Pool
from its_proxy.codesign.query import Message, role_of, surrounded, user_turns

DEFAULT_TEMPLATE = "{persona}\n\n{query}"
ENTRY_POINT_GROUP = "its_proxy.strategies"


@dataclass(frozen=True, slots=True)
class PersonaRequest:
    """What a strategy asks a live writer for: a persona of `domain` for the query `text`."""

    strategy: str
    domain: str
    text: str


@light
@dataclass(frozen=True, slots=True)
class Situation:
    """What a strategy sees. `row_id` names a training row and is None when serving."""

    draw: Draw
    pool: Pool | None
    row_id: str | None = None


Steps: TypeAlias = Generator[PersonaRequest, str, Persona | None]
"""Yields requests to a writer, receives its texts, returns the persona, or None for a plain query."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """`family` is what a pair must agree on; `covers_domains`: a pool must hold personas of every domain.

    `domain`: the choice that is all there is to the strategy, whose persona is then drawn from a pool without `steps`.
    """

    name: str
    version: int
    family: str
    steps: Callable[[Situation], Steps]
    covers_domains: bool = False
    domain: Callable[[Situation], str] | None = None


def _persona(domain: str, situation: Situation) -> Steps:
    """A persona of `domain`: drawn from the pool, or asked of the writer where there is no pool."""
    if situation.pool is not None:
        return situation.pool.draw(domain, situation.draw)
    text = yield PersonaRequest(situation.draw.strategy, domain, situation.draw.text)
    return Persona(text, domain)


def _none(situation: Situation) -> Steps:
    return None
    yield


def _similar_domain(situation: Situation) -> str:
    return taxonomy.domain_of(situation.draw.text)


def _similar(situation: Situation) -> Steps:
    return (yield from _persona(_similar_domain(situation), situation))


def _dissimilar(situation: Situation) -> Steps:
    """Unrelated is checked twice: the domain by the query's words, the persona by the words of the query's domain."""
    draw = situation.draw
    scores = taxonomy.relatedness(draw.text)
    own, domains = taxonomy.strongest(scores), taxonomy.unrelated(scores)
    first = draw.number("domain") % len(domains)
    if situation.pool is None:
        return (yield from _persona(domains[first], situation))
    number = draw.number("persona")
    for domain in (*domains[first:], *domains[:first]):
        personas = situation.pool.by_domain[domain]
        for step in range(len(personas)):  # the first one does, nearly always
            persona = personas[(number + step) % len(personas)]
            if own not in taxonomy.relatedness(persona.text):
                return persona
    raise StrategyUnavailable(f"no persona of the pool is unrelated to {own}", hint="widen the pool")


def _random_domain(situation: Situation) -> str:
    domains = situation.pool.domains if situation.pool is not None else taxonomy.NAMES
    return domains[situation.draw.number("domain") % len(domains)]


def _random(situation: Situation) -> Steps:
    return (yield from _persona(_random_domain(situation), situation))


def _mixed(situation: Situation) -> Steps:
    """Half of the training rows plain, by hash of the row id; served (no row) as `random`, to the letter."""
    row_draw = replace(situation.draw, turn=0, text=situation.row_id or "")
    if situation.row_id is not None and row_draw.number("plain") % 2 == 0:
        return None
    return (yield from _random(replace(situation, draw=replace(situation.draw, strategy="random"))))


def _fixed(situation: Situation) -> Steps:
    return (yield from _random(replace(situation, draw=replace(situation.draw, turn=0, text=""))))


def _shuffled(situation: Situation) -> Steps:
    """What `similar` gives to another query, one of a hash-picked other domain, so the tie to this query is cut."""
    own = taxonomy.domain_of(situation.draw.text)
    others = [name for name in taxonomy.NAMES if name != own]
    other = others[situation.draw.number("other query") % len(others)]
    return (yield from _persona(other, situation))


_FILLER_WORDS = ("a", "of", "the", "here", "plain", "merely", "ordinary", "sentence", "following")


def _filler(situation: Situation) -> Steps:
    """Neutral text exactly as long, in characters, as the persona that `random` draws: the length-matched control."""
    drawn = yield from _random(replace(situation, draw=replace(situation.draw, strategy="random")))
    assert drawn is not None  # random always draws
    return Persona(_neutral_text(len(drawn.text), situation.draw), taxonomy.GENERAL)


def _neutral_text(length: int, draw: Draw) -> str:
    text = ""
    while len(text) < length:
        text += _FILLER_WORDS[draw.number(f"word {len(text)}") % len(_FILLER_WORDS)] + " "
    return text[: length - 1] + "."


_BUILT_IN = (
    Strategy("none", 1, "none", _none),
    Strategy("similar", 1, "context", _similar, covers_domains=True, domain=_similar_domain),
    Strategy("dissimilar", 1, "context", _dissimilar, covers_domains=True),
    Strategy("random", 1, "context", _random, domain=_random_domain),
    Strategy("mixed", 1, "context", _mixed),
    Strategy("filler", 1, "context", _filler),
    Strategy("fixed", 1, "context", _fixed),
    Strategy("shuffled", 1, "context", _shuffled, covers_domains=True),
)
_registry: dict[tuple[str, int], Strategy] = {}
_LETTERS = {"N": "none", "S": "similar", "U": "dissimilar", "D": "dissimilar", "R": "random"}


def register(strategy: Strategy) -> None:
    """Adds a strategy; a name and version that are taken are refused, since manifests refer to them."""
    if _registry.setdefault((strategy.name, strategy.version), strategy) is not strategy:
        raise ManifestError(f"strategy {strategy.name!r} version {strategy.version} is registered twice")


for _strategy in _BUILT_IN:
    register(_strategy)


def load_strategies(names: Iterable[str]) -> None:
    """Registers the installed packages' strategies that an operator lists; nothing else is imported."""
    from importlib.metadata import entry_points  # looks through every installed package

    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    for name in names:
        if name not in installed:
            known = ", ".join(sorted(installed)) or "none"
            raise ManifestError(f"no installed package offers strategy {name!r}", hint=f"offered: {known}")
        try:
            strategy = installed[name].load()
        except Exception as error:  # whatever a stranger's module raises while it is imported
            raise ManifestError(f"strategy {name!r} cannot be loaded: {error!r}", hint=installed[name].value) from error
        if not isinstance(strategy, Strategy):
            raise ManifestError(f"the entry point {name!r} is not a Strategy", hint=installed[name].value)
        register(strategy)


def strategy_names() -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name, _ in _registry))


def strategy_named(name: str, version: int = 1) -> Strategy:
    """The strategy of that exact name and version; ManifestError with what is known otherwise."""
    strategy = _registry.get((name, version))
    if strategy is None:
        versions = [str(known) for known_name, known in _registry if known_name == name]
        hint = f"versions here: {', '.join(versions)}" if versions else f"known: {', '.join(strategy_names())}"
        raise ManifestError(f"unknown strategy {name!r} version {version}", hint=hint)
    return strategy


def name_from_input(text: str) -> str:
    """What a person typed, a name or a letter of the paper, as our name. Letters are never stored."""
    return _LETTERS.get(text, text)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One side of a pair, ready to rewrite: what the manifest's side says, with its pool opened.

    `sides`: what of the template comes before a query's text, and after it.
    """

    strategy: Strategy
    template: str = DEFAULT_TEMPLATE
    turns: Literal["all", "last"] = "all"
    pool: Pool | None = None
    system_prompt: str | None = None
    seed: int = 0
    sides: tuple[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        before, _, after = self.template.partition("{query}")
        object.__setattr__(self, "sides", (before, after))
        if self.template.count("{persona}") != 1 or self.template.count("{query}") != 1:
            raise ManifestError(f"template {self.template!r} must hold {{persona}} and {{query}} once each")
        if self.pool is not None and self.strategy.covers_domains:
            missing = [name for name in (*taxonomy.NAMES, taxonomy.GENERAL) if name not in self.pool.by_domain]
            if missing:
                hint = f"missing: {', '.join(missing[:5])}"
                raise ManifestError(f"strategy {self.strategy.name!r} needs personas of every domain", hint=hint)
        if self.pool is not None and not self.pool.domains and self.strategy.family != "none":
            raise ManifestError("the persona pool holds no domain to draw from", hint=f"domains: {taxonomy.VERSION}")


@light
@dataclass(frozen=True, slots=True)
class Rewritten:
    """The messages to send, and the persona that each rewritten user turn got (by its number)."""

    messages: list[Message]
    personas: dict[int, Persona]


RewriteSteps: TypeAlias = Generator[PersonaRequest, str, Rewritten]


def rewrite_steps(recipe: Recipe, messages: Sequence[Message], row_id: str | None = None) -> RewriteSteps:
    """Rewrites the user turns of `messages`; raises StrategyNotApplicable if a persona has no text to go to."""
    rewritten = list(messages) if recipe.system_prompt is None else _with_system_prompt(recipe.system_prompt, messages)
    if recipe.strategy.family == "none":
        return Rewritten(rewritten, {})
    turns = user_turns(rewritten)
    if not turns:
        raise StrategyNotApplicable(
            f"the model's strategy {recipe.strategy.name!r} rewrites the user's text, and there is none",
            param="messages",
            hint="send a user message with text",
        )
    strategy, pool = recipe.strategy, recipe.pool
    personas: dict[int, Persona] = {}
    for turn in turns if recipe.turns == "all" else turns[-1:]:
        draw = Draw(recipe.seed, strategy.name, turn.number, turn.text)
        situation = Situation(draw, pool, row_id)
        if pool is not None and strategy.domain is not None:
            persona: Persona | None = pool.draw(strategy.domain(situation), draw)
        else:
            persona = yield from strategy.steps(situation)
        if persona is not None:
            before, after = recipe.sides
            # Each side by itself: a persona that happens to contain "{query}" is never expanded again.
            before, after = before.replace("{persona}", persona.text), after.replace("{persona}", persona.text)
            rewritten[turn.position] = surrounded(rewritten[turn.position], before, after)
            personas[turn.number] = persona
    return Rewritten(rewritten, personas)


def _with_system_prompt(recorded: str, messages: Sequence[Message]) -> list[Message]:
    """The recorded system prompt goes first where the client sends none; a client's own stays as it is."""
    if any(role_of(message) in ("system", "developer") for message in messages):
        return list(messages)
    return [{"role": "system", "content": recorded}, *messages]


def rewrite(
    recipe: Recipe,
    messages: Sequence[Message],
    *,
    row_id: str | None = None,
    write: Callable[[PersonaRequest], str] | None = None,
) -> Rewritten:
    """Drives the strategy at once: training rows, and every recipe that has a pool."""
    steps = rewrite_steps(recipe, messages, row_id)
    step = _advance(steps)
    while isinstance(step, PersonaRequest):
        if write is None:
            raise _no_writer(recipe)
        step = _advance(steps, write(step))
    return step


async def rewrite_async(
    recipe: Recipe,
    messages: Sequence[Message],
    *,
    row_id: str | None = None,
    write: Callable[[PersonaRequest], Awaitable[str]] | None = None,
) -> Rewritten:
    """Drives the same strategy with a writer that takes its time."""
    steps = rewrite_steps(recipe, messages, row_id)
    step = _advance(steps)
    while isinstance(step, PersonaRequest):
        if write is None:
            raise _no_writer(recipe)
        step = _advance(steps, await write(step))
    return step


def _advance(steps: RewriteSteps, text: str | None = None) -> PersonaRequest | Rewritten:
    """What the strategy asks for next, or the finished rewrite. The writer runs outside of this `try`: its own
    StopIteration (a script that ran out of texts) must not pass for the end of the steps."""
    try:
        return next(steps) if text is None else steps.send(text)
    except StopIteration as done:
        finished: Rewritten = done.value
        return finished


def _no_writer(recipe: Recipe) -> StrategyUnavailable:
    return StrategyUnavailable(
        f"strategy {recipe.strategy.name!r} needs a live persona writer, and none is bound",
        hint="freeze its personas into a pool",
    )
