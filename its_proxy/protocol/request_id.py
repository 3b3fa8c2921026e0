"""The id that a request is known by in headers and logs."""

import random
import re

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_request_id(presented: str | None) -> str:
    """The client's own id if it is harmless in headers and logs, else a fresh one."""
    if presented is not None and _REQUEST_ID.fullmatch(presented):
        return presented
    return f"{random.getrandbits(96):024x}"  # to be told apart by, and no secret
