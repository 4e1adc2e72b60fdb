"""Bytes, pairs and ids as text and as JSON."""

from __future__ import annotations

import base64
from typing import Any

from revstore.cli import output
from revstore.client.values import Member
from revstore.embedded.values import KeyValue
from revstore.errors import UsageError

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def text_of(raw: bytes) -> str:
    """Bytes as text; what is no UTF-8 is shown in hexadecimal."""
    return raw.decode(errors="backslashreplace")


def fields_of(name: str, raw: bytes) -> dict[str, str]:
    """Bytes as fields of JSON: as text, and in base64 where that is no text."""
    found = {name: text_of(raw)}
    try:
        raw.decode()
    except UnicodeDecodeError:
        found[f"{name}_base64"] = base64.b64encode(raw).decode()
    return found


def pair_fields(pair: KeyValue) -> dict[str, Any]:
    """A pair as JSON."""
    return {
        **fields_of("key", pair.key),
        **fields_of("value", pair.value),
        "create_revision": pair.create_revision,
        "mod_revision": pair.mod_revision,
        "version": pair.version,
        "lease": f"{pair.lease:x}" if pair.lease else "",
    }


def print_pair(pair: KeyValue, *, values_only: bool = False) -> None:
    """A pair as lines, as etcdctl prints it."""
    if not values_only:
        output.line(text_of(pair.key))
    output.line(text_of(pair.value))


def member_fields(member: Member) -> dict[str, Any]:
    """A member as JSON."""
    return {
        "id": f"{member.id:x}",
        "name": member.name,
        "peer_urls": list(member.peer_urls),
        "client_urls": list(member.client_urls),
        "is_learner": member.is_learner,
    }


def lease_id(text: str) -> int:
    """The id of a lease. Raises: UsageError: it is no hexadecimal number."""
    return _read_id(text, "lease")


def member_id(text: str) -> int:
    """The id of a member. Raises: UsageError: it is no hexadecimal number."""
    return _read_id(text, "member")


def _read_id(text: str, what: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise UsageError(
            f"{text!r} is no id of a {what}: they are hexadecimal, as "
            f"'revstore ctl {what} list' shows them"
        ) from None


def size_text(size: int) -> str:
    """Bytes for people."""
    amount = float(size)
    for unit in UNITS:
        if amount < 1024 or unit == UNITS[-1]:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit takes all")
