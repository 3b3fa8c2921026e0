"""An inspect-ai task over its-proxy: the layouts of `its-proxy evaluate`, scored by the same answers and votes.

    inspect eval its_proxy/benchmark -T file=/data/aime24.jsonl -T k=8 --model openai-api/its/NAME

ITS_BASE_URL is its-proxy's address and ITS_API_KEY its key (any word where it has none). inspect asks k epochs of one
candidate each and votes over their answers here; with `-T voted=true` its-proxy votes, as clients get it.
"""

# inspect-ai has an environment of its own (deploy/eval-constraints.txt), so the types of its names are not known here.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"

from pathlib import Path

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import (
    CORRECT,
    INCORRECT,
    Score,
    Scorer,
    ScoreReducer,
    Target,
    accuracy,
    score_reducer,
    scorer,
    stderr,
    value_to_float,
)
from inspect_ai.solver import TaskState, generate

from its_proxy.layouts import read_benchmark
from its_proxy.voting.answers import AnswerKind, answer_of, read_answer, same
from its_proxy.voting.tally import Ballot, majority_vote


@task
def benchmark(
    file: str,
    layout: str = "auto",
    k: int = 8,
    voted: bool = False,
    answer: AnswerKind | None = None,
    choice_seed: int = 0,
) -> Task:
    """One benchmark file. `voted`: its-proxy votes over its manifest's n, and `k` counts whole votes."""
    items = read_benchmark(Path(file), layout, choice_seed)
    if not items.is_labelled:
        raise ValueError(f"{file}: a task needs gold answers")
    kind = answer or items.layout.answer or "boxed"
    its = {"vote": "always" if voted else "off", "answer": kind}
    return Task(
        name=f"its_{items.layout.name}",
        dataset=MemoryDataset(
            [Sample(id=item.id, input=item.query, target=item.gold or "") for item in items.items],
            name=items.layout.name,
        ),
        solver=generate(),
        scorer=same_answer(kind),
        epochs=Epochs(k, ["mean", "majority_of_answers"]),
        config=GenerateConfig(extra_body={"its": its}),
    )


@scorer(metrics=[accuracy(), stderr()])
def same_answer(kind: AnswerKind) -> Scorer:
    """Right where the answer has the gold one's normal form; a cut completion has none, as in a vote."""

    async def score(state: TaskState, target: Target) -> Score:
        is_whole = state.output.stop_reason in ("stop", "tool_calls")
        answer = read_answer(state.output.completion, kind) if is_whole else None
        if answer is None:
            return Score(value=INCORRECT, metadata={"kind": kind})
        is_right = same(answer, answer_of(target.text, kind))
        return Score(value=CORRECT if is_right else INCORRECT, answer=answer.text, metadata={"kind": kind})

    return score


@score_reducer(name="majority_of_answers")
def majority_of_answers() -> ScoreReducer:
    """maj@k: the vote over the epochs' answers decides. inspect's `mode` counts how many were right instead."""
    number = value_to_float()

    def reduce(scores: list[Score]) -> Score:
        ballots = [
            Ballot(index, answer_of(score.answer, score.metadata["kind"]))
            for index, score in enumerate(scores)
            if score.answer is not None
        ]
        vote = majority_vote(ballots, abstained_weight=len(scores) - len(ballots))
        chosen = scores[vote.winner or 0]
        return Score(value=number(chosen.value), answer=chosen.answer, metadata={"agreement": vote.agreement})

    return reduce
