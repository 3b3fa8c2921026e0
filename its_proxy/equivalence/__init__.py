"""Whether two answers that are written differently mean the same, proved in worker processes that can be killed.

    async with EquivalenceWorkers() as workers:
        comparisons = await workers.compare_all([answer_of(r"2\\sqrt{2}", "boxed"), answer_of(r"\\sqrt{8}", "boxed")])
    majority_vote(ballots, equivalent=comparisons.equivalent)

`reading.py` reads mathematics, `expressions.py` says what of it may be worked on, `worker.py` proves in a process of
its own, and `workers.py` keeps those processes and ends them when they take too long.
"""

from its_proxy.equivalence.workers import Comparisons, EquivalenceWorkers, Limits, Verdict

__all__ = ["Comparisons", "EquivalenceWorkers", "Limits", "Verdict"]
