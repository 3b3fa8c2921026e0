"""What the handshake can tell apart with a set of probes, and what it cannot: known before anything is served.

Distances are mean absolute differences, so the triangle inequality holds: an honest server that lies x nats from
this checkpoint's record lies at least d - x from a reference at distance d. The handshake's ratio rule then
decides for certain where d is at least (RATIO + 1) x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from its_proxy.codesign.manifest import Probe
from its_proxy.evidence import RATIO, Scored, compare

Telling: TypeAlias = Literal["always", "at recorded noise", "no power"]


@dataclass(frozen=True, slots=True)
class Separation:
    """How far one reference lies from this checkpoint, and whether a server with its weights is told."""

    name: str
    distance: float
    noise: float
    bound: float

    @property
    def ratio(self) -> float | None:
        """Distance in units of the noise; None where there was none."""
        return self.distance / self.noise if self.noise else None

    @property
    def telling(self) -> Telling:
        """`always`: for every server near enough to pass; `at recorded noise`: for one no noisier than bf16 here."""
        if self.distance >= (RATIO + 1) * self.bound:
            return "always"
        has_noise = self.noise > 0  # without it nothing is known of what a server shows
        return "at recorded noise" if has_noise and self.distance >= (RATIO + 1) * self.noise else "no power"


@dataclass(frozen=True, slots=True)
class Power:
    """`bound` is the most that the handshake lets an honest server show."""

    n_probes: int
    n_tokens: int
    noise: float
    bound: float
    separations: tuple[Separation, ...]

    @property
    def is_short(self) -> bool:
        """Whether some reference is not told from this checkpoint in every case, or there is none to tell."""
        return not self.separations or any(one.telling != "always" for one in self.separations)

    @property
    def verdict(self) -> str:
        """The consequence, in a sentence or two, for whoever serves the checkpoint."""
        if not self.separations:
            return "No reference was measured: served weights can be called near these, never another checkpoint's."
        by_telling = {telling: self._names(telling) for telling in ("always", "at recorded noise", "no power")}
        said = []
        if by_telling["always"]:
            said.append(f"A server with the weights of {by_telling['always']} is a mismatch.")
        if by_telling["at recorded noise"]:
            said.append(
                f"{by_telling['at recorded noise']}: told apart by a server no noisier than bfloat16 was here; "
                "by a noisier one, unverified."
            )
        if by_telling["no power"]:
            said.append(
                f"No power: {by_telling['no power']} cannot be told from this checkpoint with these probes; "
                "a server is then unverified, whichever it serves."
            )
        return " ".join(said)

    def _names(self, telling: str) -> str:
        return ", ".join(one.name for one in self.separations if one.telling == telling)

    def document(self) -> dict[str, Any]:
        """As it is kept in the manifest's provenance."""
        return {
            "probes": self.n_probes,
            "tokens": self.n_tokens,
            "noise": round(self.noise, 6),
            "bound": round(self.bound, 6),
            "references": {
                one.name: {
                    "distance": round(one.distance, 6),
                    "distance_over_noise": None if one.ratio is None else round(one.ratio, 2),
                    "told_apart": one.telling,
                }
                for one in self.separations
            },
            "verdict": self.verdict,
        }


def power_of(probes: Sequence[Probe]) -> Power:
    """The power of measured probes: what the handshake would see of a server that shows exactly their record."""
    scored = [Scored(probe, probe.logprobs.this) for probe in probes if probe.logprobs is not None]
    found = compare(scored, is_declared=False)
    n_tokens = found.n_tokens
    noise = sum(one.probe.logprobs.noise * len(one.logprobs) for one in scored if one.probe.logprobs) / n_tokens
    separations = sorted(
        (Separation(name, distance, noise, found.bound) for name, distance in found.others.items()),
        key=lambda one: (one.name != "base", one.name),
    )
    return Power(len(scored), n_tokens, noise, found.bound, tuple(separations))
