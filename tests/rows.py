"""Rows of candidates files, written in one line where a test needs them."""

from random import Random
from typing import Any

from its_proxy.candidates import Row


def row(
    item: str,
    *answers: str | None,
    gold: str | None = "1",
    tokens: list[int | None] | None = None,
    greedy: str | None = None,
    strategy: str = "none",
    finish_reason: str | None = "stop",
    finished_s: list[float] | None = None,
    **fields: Any,
) -> Row:
    """One item; a candidate an answer. `fields` are further ones of the row."""

    def candidate(index: int, answer: str | None, n_tokens: int | None) -> dict[str, object]:
        times = {"started_s": 0.0, "finished_s": finished_s[index]} if finished_s is not None else {}
        return {
            **times,
            "index": index,
            "text": "",
            "finish_reason": finish_reason,
            "completion_tokens": n_tokens,
            "answer": answer,
        }

    return Row.model_validate(
        {
            "id": item,
            "query": "?",
            "gold": gold,
            "model": "tiny",
            "strategy": strategy,
            "temperature": 0.8,
            "candidates": [
                candidate(index, *pair)
                for index, pair in enumerate(zip(answers, tokens or [10] * len(answers), strict=True))
            ],
            "greedy": candidate(0, greedy, 10) if greedy is not None else None,
            **fields,
        }
    )


def random_rows(n_items: int, k: int, seed: int = 0) -> list[Row]:
    random = Random(seed)
    return [
        row(
            str(item),
            *random.choices(["1", "2", "3", "x", None], weights=[random.random() * 6, 1, 1, 1, 0.5], k=k),
            tokens=[random.randint(5, 60) for _ in range(k)],
            greedy=random.choice(["1", "2"]),
        )
        for item in range(n_items)
    ]
