"""Whether two answers that are written differently mean the same, proved in worker processes that can be killed.

    async with EquivalenceWorkers() as workers:
        comparisons = await workers.compare_all([answer_of(r"2\\sqrt{2}", "boxed"), answer_of(r"\\sqrt{8}", "boxed")])
    majority_vote(ballots, equivalent=comparisons.equivalent)

`reading.py` reads mathematics, `expressions.py` says what of it may be worked on, `worker.py` proves in a process of
its own, `process.py` keeps such a process and ends it when it takes too long, `workers.py` gives them their pairs, and
`comparisons.py` holds what they said.
"""

from its_proxy.equivalence.comparisons import Comparer, Comparisons, Verdict
from its_proxy.equivalence.workers import EquivalenceWorkers, Limits

__all__ = ["Comparer", "Comparisons", "EquivalenceWorkers", "Limits", "Verdict"]
