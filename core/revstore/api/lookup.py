"""What every transport answers by itself: unknown methods and handlers that raise.

The texts are those of grpc-go, so that a client sees the same words over every
transport.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from revstore.api.errors import Code
from revstore.errors import ApiError

INTERNAL_ERROR = ApiError(
    Code.INTERNAL, "revstore: internal error; the cause is in the server's log"
)
"""The answer to a call whose handler raised (T-05)."""


def services_of(paths: Iterable[str]) -> frozenset[str]:
    """The names of the services that a table's paths belong to."""
    return frozenset(path[1:].rpartition("/")[0] for path in paths)


def unimplemented(services: Container[str], path: str) -> ApiError:
    """The refusal of a path that is not in the table."""
    service, slash, method = path.removeprefix("/").rpartition("/")
    if not slash:
        return ApiError(Code.UNIMPLEMENTED, f"malformed method name: {path!r}")
    if service in services:
        text = f"unknown method {method} for service {service}"
    else:
        text = f"unknown service {service}"
    return ApiError(Code.UNIMPLEMENTED, text)
