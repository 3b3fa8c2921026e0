"""Prometheus metrics; every label comes from the configuration or from a closed set, never from a client."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Gauge, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from its_proxy import __version__
from its_proxy.admission import Admission
from its_proxy.evaluated import evaluated_agreement
from its_proxy.outcome import Outcome, State
from its_proxy.reply import wasted_tokens
from its_proxy.server.counts import Counter, Histogram
from its_proxy.server.traces import Traces
from its_proxy.targets import Target

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_LAGS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
_ABSTAINING: tuple[State, ...] = ("no_answer", "truncated")


class Metrics(Collector):
    """One registry a server, so that two servers in one process (as in tests) do not share counts."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.n_in_flight = 0
        self.n_connections = 0
        self.registry = CollectorRegistry()
        registry = self.registry
        self._declare_edge(registry)
        self._declare_votes(registry)
        self.reloads = Counter(registry, "its_proxy_manifest_reload", "Settings and manifests read again", ["result"])
        self.lag = Histogram(
            registry, "its_proxy_loop_lag_seconds", "How late the event loop came to what was due", bounds=_LAGS
        )
        self._targets: Callable[[], Iterable[Target]] = tuple
        self._n_dropped: Callable[[], int] = int
        self._traces: Traces | None = None
        registry.register(self)
        ProcessCollector(registry=registry)
        self.build = Gauge("its_proxy_build_info", "Always 1", ["version"], registry=registry)
        self.build.labels(__version__).set(1)

    def _declare_edge(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(registry, "its_proxy_requests", "Requests answered", ["model", "code"])
        self.duration = Histogram(
            registry, "its_proxy_request_duration_seconds", "Request received to reply sent", ["model"], bounds=_SECONDS
        )
        in_flight = Gauge("its_proxy_inflight_requests", "Requests being answered", registry=registry)
        in_flight.set_function(lambda: self.n_in_flight)
        self.disconnects = Counter(
            registry, "its_proxy_client_disconnects", "Clients that left early, by how far they had come", ["phase"]
        )
        connections = Gauge("its_proxy_open_connections", "Connections of clients", registry=registry)
        connections.set_function(lambda: self.n_connections)
        self.refused_connections = Counter(registry, "its_proxy_refused_connections", "Connections beyond the limit")
        self.receive_timeouts = Counter(
            registry, "its_proxy_request_receive_timeouts", "Requests that came too slowly", ["part"]
        )
        self.slow_readers = Counter(
            registry, "its_proxy_slow_client_closed", "Connections ended because a reply was not read"
        )
        self.malformed = Counter(registry, "its_proxy_malformed_requests", "Requests that are not HTTP")

    def _declare_votes(self, registry: CollectorRegistry) -> None:
        self.votes = Counter(registry, "its_proxy_votes", "Votes, by how they ended", ["model", "stopped"])
        self.candidates = Counter(
            registry, "its_proxy_candidates", "Candidates, by what became of them", ["model", "state"]
        )
        self.abstentions = Counter(
            registry, "its_proxy_abstentions", "Candidates of votes without an answer, by reason", ["model", "reason"]
        )
        self.saved = Counter(
            registry, "its_proxy_candidates_saved", "Candidates of votes that were not asked, or cancelled, by why",
            ["model", "stopped"],
        )  # fmt: skip
        self.agreement = Histogram(
            registry, "its_proxy_vote_agreement_ratio", "Leader's share of valid candidates", ["model"], bounds=_SHARES
        )
        self.ties = Counter(registry, "its_proxy_vote_ties", "Votes that the tie rule decided", ["model"])
        self.pairs = Counter(
            registry, "its_proxy_equivalence_pairs", "Pairs of answers that were compared", ["model", "verdict"]
        )
        self.tokens = Counter(
            registry, "its_proxy_generated_tokens", "Generated tokens that upstreams reported", ["model"]
        )
        self.wasted = Counter(
            registry, "its_proxy_wasted_tokens", "Generated tokens of candidates that were cut off, lost or cancelled",
            ["model"],
        )  # fmt: skip
        self.degraded = Counter(
            registry, "its_proxy_strategy_degraded", "Replies that are marked as degraded", ["reason"]
        )

    def count_outcome(self, model: str, outcome: Outcome) -> None:
        self.tokens.add(outcome.usage["completion_tokens"], model)
        for state, n in outcome.states.items():
            self.candidates.add(n, model, state)
        if wasted := wasted_tokens(outcome):
            self.wasted.add(wasted, model)
        for reason in outcome.degradations:
            self.degraded.add(1, reason.partition(" ")[0])
        if outcome.plan.is_vote:
            self._count_vote(model, outcome)

    def _count_vote(self, model: str, outcome: Outcome) -> None:
        self.votes.add(1, model, outcome.stopped)
        # A vote that nobody cast a ballot in has no leader, and says nothing of how far candidates agree.
        if outcome.vote.winner is not None:
            self.agreement.observe(outcome.vote.agreement, model)
        for state in _ABSTAINING:
            if n := outcome.states.get(state):
                self.abstentions.add(n, model, state)
        if outcome.stopped in ("decided", "no_answer"):
            n_received = len(outcome.candidates) - outcome.states.get("cancelled", 0)
            self.saved.add(outcome.plan.n - n_received, model, outcome.stopped)
        if outcome.vote.is_tie:
            self.ties.add(1, model)
        for verdict, n_pairs in outcome.comparisons.counts.items():
            self.pairs.add(n_pairs, model, verdict)

    def follow_log(self, n_dropped: Callable[[], int]) -> None:
        """From now on this says how many lines of the log were lost."""
        self._n_dropped = n_dropped

    def follow_traces(self, traces: Traces) -> None:
        """From now on this says how many spans were lost."""
        self._traces = traces

    def follow(self, targets: Callable[[], Iterable[Target]]) -> None:
        """From now on these targets are told about, as they stand when the metrics are read."""
        self._targets = targets

    def collect(self) -> Iterator[Metric]:
        """What the admission and the targets themselves know, for the registry."""
        yield from self._of_admission()
        yield from self._of_targets()
        yield CounterMetricFamily(
            "its_proxy_log_lines_dropped", "Lines of the log that stderr did not take", value=self._n_dropped()
        )
        if self._traces is not None:
            yield CounterMetricFamily(
                "its_proxy_spans_dropped", "Spans that were not delivered", value=self._traces.n_dropped
            )
        if (ratio := _descriptors_in_use()) is not None:
            yield GaugeMetricFamily("its_proxy_fd_used_ratio", "Open files by the most that may be open", value=ratio)

    def _of_targets(self) -> Iterator[Metric]:
        labels = ["model", "target"]
        state = GaugeMetricFamily(
            "its_proxy_handshake_state", "1 for the current state of a target's handshake", labels=[*labels, "state"]
        )
        in_flight = GaugeMetricFamily("its_proxy_target_inflight", "Candidates in flight at a target", labels=labels)
        ejections = CounterMetricFamily(
            "its_proxy_target_ejections", "Times that a failing target was left alone for a while", labels=labels
        )
        aborted = CounterMetricFamily(
            "its_proxy_upstream_aborted", "Calls ended before their reply: nobody waited for it any more", labels=labels
        )
        for target in self._targets():
            place = [target.model, target.upstream.name]
            in_flight.add_metric(place, target.n_in_flight)
            ejections.add_metric(place, target.health.n_ejections)
            aborted.add_metric(place, target.n_aborted)
            for known in ("pending", "verified", "unverified", "mismatch") if target.state != "none" else ():
                state.add_metric([*place, known], known == target.state)
        yield from (state, in_flight, ejections, aborted, self._evaluated())

    def _evaluated(self) -> Metric:
        """One a model: its targets serve the same checkpoint."""
        evaluated = GaugeMetricFamily(
            "its_proxy_evaluated_agreement_ratio", "What the agreement of votes should not fall below, by the manifest",
            labels=["model"],
        )  # fmt: skip
        manifests = {target.model: target.checkpoint for target in self._targets() if target.checkpoint is not None}
        for model, checkpoint in manifests.items():
            if (level := evaluated_agreement(checkpoint.manifest)) is not None:
                evaluated.add_metric([model], level)
        return evaluated

    def _of_admission(self) -> Iterator[Metric]:
        admission = self._admission
        yield GaugeMetricFamily(
            "its_proxy_candidates_inflight", "Candidates in flight, of all models", admission.n_in_flight
        )
        yield GaugeMetricFamily(
            "its_proxy_candidates_limit",
            "Most candidates that may be in flight, of all models",
            admission.limits.candidates,
        )
        yield GaugeMetricFamily("its_proxy_queued_requests", "Requests that wait for room", admission.n_waiting)
        rejected = CounterMetricFamily(
            "its_proxy_rejected", "Requests turned away before anything was begun", labels=["reason"]
        )
        for reason, n in admission.n_rejected.items():
            rejected.add_metric([reason], n)
        yield rejected
        yield CounterMetricFamily(
            "its_proxy_reduced_votes", "Votes with fewer candidates, for lack of room", admission.n_reduced
        )

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


def _descriptors_in_use() -> float | None:
    """None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return 0.0 if soft == resource.RLIM_INFINITY else len(os.listdir("/dev/fd")) / soft
    except OSError:
        return None
