"""How a target fares, told from its calls alone.

    well       every query may go there
    avoided    it has just failed, or was busy: others are asked first, for 1 s, then 2, and so on up to 10
    ejected    it has failed three times in a row: the same, and whoever does not even answer is asked by nobody
    half-open  that time is over: one query is let through, and if it is answered the target is well again
    resting    its server has said when to come back (429 or 503 with Retry-After): nothing is sent there until then

Where no other target is left, an ejected one is still asked if it has answered, with a 500 or with nonsense: the
queries may have themselves to blame, and must not take the server from everybody else. One that did not answer at
all is `blocked`, as is one that rests: then clients hear at once when to come back.
"""

import random
from time import monotonic

from its_proxy.codesign.errors import UpstreamBusy, UpstreamError

FAILURES_TO_EJECT = 3
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 10.0
LONGEST_REST_S = 60.0
"""No server can have itself left alone for longer by one reply."""


class Health:
    """`n_ejections`: how often it was left alone because of failures.

    `is_well`: it has answered since it last failed or refused, and rests no more. Mostly so, and then nothing else need
    be asked before a call, or told after it.
    """

    def __init__(self) -> None:
        self.n_ejections = 0
        self.is_well = True
        self._failures = 0
        self._setbacks = 0
        self._is_mute = True
        self._status = 503
        self._ejected_until = self._rests_until = self._avoided_until = 0.0

    @property
    def is_ejected(self) -> bool:
        return monotonic() < self._ejected_until

    @property
    def is_avoided(self) -> bool:
        """Whether others are asked first."""
        return self.is_ejected or monotonic() < self._avoided_until

    @property
    def is_blocked(self) -> bool:
        """Whether nobody may be sent there, even where there is nobody else."""
        if self.is_well:
            return False
        now = monotonic()
        return now < self._rests_until or (now < self._ejected_until and self._is_mute)

    def blocked(self, name: str) -> UpstreamBusy:
        """What a query is told that finds `name` blocked."""
        now = monotonic()
        if now < self._rests_until:
            message, status, until = f"upstream {name} has asked for a pause", self._status, self._rests_until
        else:
            message, status, until = f"upstream {name} does not answer", 503, self._ejected_until
        return UpstreamBusy(message, status=status, retry_after_s=max(1.0, until - now))

    def answered(self) -> None:
        self._failures, self._setbacks, self._ejected_until = 0, 0, 0.0
        self.is_well = monotonic() >= self._rests_until

    def failed(self, error: UpstreamError) -> None:
        """Calls that were in flight together fail together, and tell of one failure."""
        self.is_well = False
        self._avoid()
        if self.is_ejected:
            return
        self._is_mute = error.is_mute and (self._is_mute or self._failures == 0)
        self._failures += 1
        if self._failures >= FAILURES_TO_EJECT:
            self._eject()

    def refused(self, error: UpstreamBusy) -> None:
        """No room there: not a failure, but the server's own word."""
        self.is_well = False
        if error.retry_after_s:
            self._rests_until = max(self._rests_until, monotonic() + min(error.retry_after_s, LONGEST_REST_S))
            self._status = error.status
        else:
            self._avoid()

    def begin_probe(self) -> bool:
        """Whether the query that is about to go there is the one that tries it; until it is answered, the others are
        sent there no more than before."""
        if self._failures < FAILURES_TO_EJECT or self.is_ejected:
            return False
        self._failures += 1
        self._eject()
        return True

    def _avoid(self) -> None:
        if monotonic() >= self._avoided_until:
            self._avoided_until = monotonic() + _pause_s(self._setbacks)
            self._setbacks += 1

    def _eject(self) -> None:
        self._ejected_until = monotonic() + _pause_s(self._failures - FAILURES_TO_EJECT)
        self.n_ejections += 1


def _pause_s(n_before: int) -> float:
    # A bound for the power as well: a server may be away for days.
    return min(FIRST_PAUSE_S * 2.0 ** min(n_before, 10), LAST_PAUSE_S) * random.uniform(0.75, 1.25)
