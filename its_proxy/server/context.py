"""What the handlers share, and what belongs to one request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from its_proxy.admission import Admission, Door
from its_proxy.equivalence import EquivalenceWorkers
from its_proxy.exchange import NO_FRONT, Front
from its_proxy.observe import NOBODY, Observer, OfOperation
from its_proxy.server.auth import Caller, Doorkeeper
from its_proxy.server.catalog import Catalog
from its_proxy.server.http.request import Request
from its_proxy.server.metrics import Metrics
from its_proxy.server.traces import Traces
from its_proxy.settings import Settings
from its_proxy.upstreams.base import APPLIED_HEADER

if TYPE_CHECKING:
    from its_proxy.server.siblings import Siblings

_APPLIED = APPLIED_HEADER.lower().encode()


@dataclass(slots=True)
class Context:
    """One server's state. `is_draining`: still answering, but no longer to be sent new work. `tls`: for connections to
    come, where it is spoken. `traces`: where they are wanted. `siblings`: where this is one of several workers."""

    settings: Settings
    catalog: Catalog
    doorkeeper: Doorkeeper
    metrics: Metrics
    admission: Admission
    workers: EquivalenceWorkers
    is_draining: bool = False
    tls: SSLContext | None = None
    traces: Traces | None = None
    siblings: "Siblings | None" = None
    _has_looked: bool = field(default=False, init=False)

    @property
    def shares_port(self) -> bool:
        return self.settings.reuse_port or self.siblings is not None

    @property
    def is_ready(self) -> bool:
        """Whether it is to be sent queries: at least one model serves, and no shutdown has begun. At its start also
        every target has been looked at, so that nobody is sent here for a model that is only about to be known."""
        self._has_looked = self._has_looked or self.catalog.is_known
        return self._has_looked and self.catalog.is_ready and not self.is_draining


def caller_of(request: Request) -> Caller:
    """Raises Unauthenticated."""
    doorkeeper = request.context.doorkeeper
    return doorkeeper.anyone or doorkeeper.admit(request.header(b"authorization"))


def observer_of(request: Request, operation: str = "chat") -> Observer:
    """Who watches its calls to upstreams, as calls of that operation."""
    if request.span is None:
        return NOBODY
    return request.span if operation == "chat" else OfOperation(request.span, operation)


def tenant_of(request: Request, caller: Caller, body: Mapping[str, Any]) -> str | None:
    """Whom the caller speaks for: believed only of keys with the right `front`. None: itself."""
    source = request.context.settings.tenant_from
    if source == "key" or "front" not in caller.rights:
        return None
    tenant = body.get("user") if source == "user" else request.header(source.removeprefix("header:").lower().encode())
    return tenant if isinstance(tenant, str) else None


def door_of(request: Request, caller: Caller, salt: str | None) -> Door:
    """Where this request waits for room, `salt` telling its tenant from others. Raises NotAdmitted where its caller
    sends more of them than it may."""
    return request.context.admission.door(salt or caller.name, caller.limits)


def front_of(request: Request, caller: Caller) -> Front:
    """What a layer in front says it has done."""
    if _APPLIED not in request.fields:
        return NO_FRONT
    return Front.said(request.header(_APPLIED), is_trusted="front" in caller.rights)


def traits_of(body: Mapping[str, Any], caller: Caller, query: str | None) -> dict[str, str | None]:
    """What an alias may stick to."""
    user = body.get("user")
    return {"query": query, "key": caller.name, "user": user if isinstance(user, str) else caller.name, "none": None}
