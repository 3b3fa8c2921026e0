"""Every error its-proxy raises on purpose.

    ItsError
    ├── ManifestError              its.json, its pool or its pointer cannot be trusted
    │   ├── UnknownSchema          written by a version that this one cannot read
    │   ├── DigestMismatch         a file is not the one that the pair names
    │   ├── OneSidedPair           persona text on one side only
    │   └── ProbeMismatch          a stored probe renders differently here
    ├── ConfigError                settings; names the key and the line
    ├── RequestError               the request cannot be served as asked (400)
    │   ├── Unauthenticated        no key, or an unknown one (401)
    │   ├── NotPermitted           an override that this key may not use (403)
    │   └── StrategyNotApplicable  no user text to rewrite, or a template of the client's own
    ├── TooManyConnections         no room for another client's connection (503)
    ├── ModelNotFound              no such model name (404)
    ├── ModelUnavailable           pending or mismatched: this model is not served now (503)
    ├── NotAdmitted                no room now: the caller's own limits (429) or the server's (503)
    ├── StrategyUnavailable        the live persona writer failed: never a silent plain query (503)
    ├── UpstreamError              one upstream call failed
    │   ├── UpstreamUnreachable    no connection
    │   │   └── UpstreamUntrusted  its TLS certificate is expired, or not trusted here
    │   ├── UpstreamBroken         the connection broke before any reply
    │   ├── UpstreamBusy           429 or 503 before any body; carries retry_after_s
    │   ├── UpstreamRejected       any other error status; carries it
    │   ├── UpstreamTimeout        first byte, idle or total timer
    │   └── BadPayload             a 200 that is not a chat completion
    └── VoteError                  candidates came, a vote did not
        ├── NoVote                 no candidate holds an answer, and the caller insists on one
        ├── NoConsensus            agreement below the caller's floor, and it insists
        └── QuorumLost             too few valid candidates; carries the status to report

A candidate without an answer is a result, not an error: it abstains.
"""


class ItsError(Exception):
    """One clear line, one line of advice, and whether the same call may succeed later."""

    code = "internal_error"
    is_retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ManifestError(ItsError):
    code = "manifest_invalid"


class UnknownSchema(ManifestError):
    pass


class DigestMismatch(ManifestError):
    pass


class OneSidedPair(ManifestError):
    code = "one_sided_pair"


class ProbeMismatch(ManifestError):
    code = "probe_mismatch"


class ConfigError(ItsError):
    code = "config_invalid"


class RequestError(ItsError):
    """A request that cannot be served as asked; `param` names the offending field."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param
        if code is not None:
            self.code = code


class Unauthenticated(RequestError):
    code = "invalid_api_key"


class NotPermitted(RequestError):
    code = "not_permitted"


class StrategyNotApplicable(RequestError):
    code = "strategy_not_applicable"


class TooManyConnections(ItsError):
    code = "too_many_connections"
    is_retryable = True


class ModelNotFound(RequestError):
    code = "model_not_found"


class ModelUnavailable(ItsError):
    """`code` is `model_pending` (try again in `retry_after_s`) or `model_mismatch` (an operator must act)."""

    def __init__(self, message: str, *, code: str, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.retry_after_s = retry_after_s
        self.is_retryable = retry_after_s is not None


class NotAdmitted(ItsError):
    """Nothing was begun. `is_callers`: other callers would have been let in."""

    is_retryable = True

    def __init__(self, message: str, *, is_callers: bool, retry_after_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = 429 if is_callers else 503
        self.code = "rate_limit_exceeded" if is_callers else "server_full"
        self.retry_after_s = retry_after_s


class StrategyUnavailable(ItsError):
    code = "strategy_unavailable"
    is_retryable = True


class UpstreamError(ItsError):
    """`is_mute`: nothing was heard from the server at all."""

    code = "upstream_error"
    is_mute = False


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"
    is_retryable = True
    is_mute = True


class UpstreamUntrusted(UpstreamUnreachable):
    code = "upstream_tls"
    is_retryable = False


class UpstreamBroken(UpstreamError):
    is_mute = True


class UpstreamBusy(UpstreamError):
    """`status` is 429 or 503; nothing was generated, so asking again costs nothing."""

    code = "upstream_busy"
    is_retryable = True

    def __init__(self, message: str, *, status: int = 429, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after_s = retry_after_s


class UpstreamRejected(UpstreamError):
    code = "upstream_rejected"

    def __init__(self, message: str, *, status: int, param: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.param = param


class UpstreamTimeout(UpstreamError):
    code = "upstream_timeout"
    is_mute = True


class BadPayload(UpstreamError):
    code = "bad_upstream_payload"


class VoteError(ItsError):
    pass


class NoVote(VoteError):
    code = "no_vote"


class NoConsensus(VoteError):
    code = "no_consensus"


class QuorumLost(VoteError):
    """`status`: 429 or 503 when every lost candidate was refused for load, 504 past the deadline, else 502."""

    code = "quorum_lost"

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after_s = retry_after_s
        self.is_retryable = status in (429, 503)
