"""Small files of the layouts that real data sets have; every text here is ours."""

import json
import random
from pathlib import Path

THINGS = ("apples", "pears", "chairs", "lamps", "books", "kites", "drums", "ropes", "tiles", "bricks", "coins", "nuts")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon")


def problem(n: int) -> str:
    """A word problem of its own: no two share eight words."""
    chance = random.Random(n)
    words = [
        f"{chance.choice('bcdfghklmnprst')}{chance.choice('aeiou')}{chance.choice('bdgklmnprt')}{k}" for k in range(9)
    ]
    return f"{NAMES[n % 10]} counts {n + 3} {THINGS[n % 12]} near {' '.join(words)}. How many remain after {n} go?"


def gsm8k_rows(n: int) -> list[dict]:
    return [{"question": problem(k), "answer": f"{k + 3}-{k}=<<{k + 3}-{k}=3>>3 are left.\n#### 3"} for k in range(n)]


def openthoughts_row(n: int) -> dict:
    text = (f"<|begin_of_thought|>\n\nLet me see {n}.\n\n<|end_of_thought|>\n\n"
            f"<|begin_of_solution|>\n\nThe Final Answer is \\boxed{{{n}}}.\n\n<|end_of_solution|>")  # fmt: skip
    turns = [{"from": "user", "value": problem(n)}, {"from": "assistant", "value": text}]
    return {"system": "Think first.", "conversations": turns}


def metadata_row(n: int, domain: str = "math") -> dict:
    return {
        "problem": problem(n), "deepseek_reasoning": f"Let me see {n}.", "domain": domain, "source": "x",
        "deepseek_solution": f"The final answer is \\boxed{{{n}}}.", "ground_truth_solution": f"\\boxed{{{n}}}",
    }  # fmt: skip


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
