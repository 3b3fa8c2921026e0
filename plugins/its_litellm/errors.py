"""Errors between the two worlds, with class, status and advice kept."""

from collections.abc import Iterator
from contextlib import contextmanager

from litellm.llms.custom_llm import CustomLLMError

from its_proxy.codesign.errors import (
    ConfigError,
    ItsError,
    ManifestError,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from its_proxy.protocol.envelope import error_reply


@contextmanager
def told_to_litellm() -> Iterator[None]:
    """Raises ItsError on as what LiteLLM maps to its own exceptions by status; the words are ours."""
    try:
        yield
    except ItsError as error:
        raise litellm_error(error) from None


def litellm_error(error: ItsError) -> CustomLLMError:
    reply = error_reply(error)
    # What the operator has to repair is no defect of ours: the model is not served.
    status = 503 if isinstance(error, ConfigError | ManifestError) else reply.status
    raised = CustomLLMError(status, f"{error.code}: {error}")
    raised.headers = reply.headers  # where LiteLLM looks for Retry-After
    return raised


def upstream_error(name: str, error: Exception) -> UpstreamError:
    """What a call through LiteLLM's router failed with; its text stays in LiteLLM's own log."""
    status = getattr(error, "status_code", None)
    kind = type(error).__name__
    if kind == "APIConnectionError":
        return UpstreamUnreachable(f"deployment {name} cannot be reached")
    if kind == "RouterRateLimitError":
        return UpstreamBusy(f"deployment {name} is cooling down", status=503)
    if kind == "Timeout":
        return UpstreamTimeout(f"deployment {name} sent nothing in time")
    if status in (429, 503):
        return UpstreamBusy(f"deployment {name} is busy", status=status)
    if isinstance(status, int) and 400 <= status <= 599:
        return UpstreamRejected(f"deployment {name} answered {status}", status=status, hint="LiteLLM's log says why")
    return UpstreamError(f"deployment {name} failed: {kind}")
