"""The forms a setting can have, and how each is read and written.

Rules of this file:

1. ``from_text`` reads what a flag or an environment variable holds, in the forms that
   etcd accepts.
2. ``from_value`` reads what a TOML file holds; a value of the wrong type is refused,
   never guessed at.
3. ``to_text`` writes a value so that ``from_text`` gives it back.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from revstore.config.durations import seconds_of, text_of

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_INTEGER_LIMIT = 2**63


class Form(StrEnum):
    """How the value of a setting is written."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DURATION = "duration"
    LIST = "list"
    """Texts separated by commas."""
    BIND_URLS = "listen URLs"
    URLS = "URLs"
    CLUSTER = "name=URL list"
    GATES = "name=boolean list"
    RETENTION = "retention"
    """Duration, hours or revisions; kept as text until the mode is known."""


def from_text(form: Form, text: str) -> Any:
    """The value that a text means.

    Raises:
        ValueError: the text does not have the form; the message says what is wrong.
    """
    return _TEXT_READERS[form](text)


def from_value(form: Form, value: Any) -> Any:
    """The value that an item of a TOML file means.

    Raises:
        ValueError: type or form is wrong; the message says what to write.
    """
    if form is Form.BOOLEAN:
        if not isinstance(value, bool):
            raise ValueError(f"write true or false without quotes, not {value!r}")
        return value
    if form is Form.INTEGER:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"write a whole number without quotes, not {value!r}")
        return _bounded(value)
    if form is Form.RETENTION and isinstance(value, int):
        return from_text(form, str(value))
    if form is Form.GATES and isinstance(value, Mapping):
        return {str(name): from_value(Form.BOOLEAN, on) for name, on in value.items()}
    if isinstance(value, str):
        return from_text(form, value)
    if form is Form.DURATION:
        raise ValueError(
            f"write a duration in quotes with a unit ('5s'), not {value!r}"
        )
    if isinstance(value, list) and form in _LISTS:
        if not all(isinstance(part, str) for part in value):
            raise ValueError("every item of the list must be a text in quotes")
        return from_text(form, ",".join(value))
    wanted = (
        "a text in quotes or a list of them" if form in _LISTS else "a text in quotes"
    )
    raise ValueError(f"write {wanted}, not {value!r}")


def to_text(form: Form, value: Any) -> str:
    """The value as a flag would give it. Raises: nothing."""
    if form is Form.BOOLEAN:
        return "true" if value else "false"
    if form is Form.DURATION:
        return text_of(value)
    if form is Form.CLUSTER:
        pairs = [(name, url) for name, urls in value.items() for url in urls]
        return ",".join(f"{name}={url}" for name, url in pairs)
    if form is Form.GATES:
        return ",".join(
            f"{name}={to_text(Form.BOOLEAN, value[name])}" for name in value
        )
    if form in _LISTS:
        return ",".join(value)
    return str(value)


def host_and_port(url: str) -> tuple[str, int]:
    """Host and port of an http or https URL that was checked. Raises: nothing."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _integer(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None
    return _bounded(value)


def _bounded(value: int) -> int:
    if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise ValueError(f"{value} does not fit in 64 bits")
    return value


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _urls(text: str) -> tuple[str, ...]:
    return tuple(_checked_url(url) for url in _list(text))


def _bind_urls(text: str) -> tuple[str, ...]:
    urls = _urls(text)
    for url in urls:
        if url.startswith("unix"):
            continue
        host, _ = host_and_port(url)
        if host != "localhost" and not _is_address(host):
            raise ValueError(
                f"{url!r} cannot be listened on: use an IP address or localhost, "
                "0.0.0.0 for all interfaces"
            )
    return urls


def _checked_url(url: str) -> str:
    """One URL in the form that etcd demands: scheme, host and port, no path."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"{url!r} is no URL: {exc}") from None
    if parts.scheme in ("unix", "unixs"):
        if not parts.netloc and not parts.path:
            raise ValueError(f"{url!r} has no path; write unix:///run/revstore.sock")
        return url
    if parts.scheme not in ("http", "https", "tcp", "tcps"):
        raise ValueError(
            f"{url!r} must start with http://, https://, tcp://, tcps:// or unix://"
        )
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host; write http://127.0.0.1:2379")
    if port is None:
        raise ValueError(f"{url!r} has no port; write {url.rstrip('/')}:2379")
    if parts.path or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{url!r} must end after the port")
    return url


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _cluster(text: str) -> dict[str, tuple[str, ...]]:
    members: dict[str, tuple[str, ...]] = {}
    for part in _list(text):
        name, equals, url = part.partition("=")
        if not equals or not name:
            raise ValueError(f"{part!r} is not of the form name=http://host:2380")
        members[name] = (*members.get(name, ()), _checked_url(url))
    return members


def _gates(text: str) -> dict[str, bool]:
    gates = {}
    for part in _list(text):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not of the form Name=true or Name=false")
        gates[name.strip()] = _boolean(value.strip())
    return gates


def retention(mode: str, text: str) -> float:
    """Seconds (mode periodic) or revisions (mode revision) to keep.

    Raises:
        ValueError: the text does not fit the mode.
    """
    if mode == "revision":
        value = _integer(text)
        if value < 0:
            raise ValueError(f"{text!r} is below 0")
        return value
    try:
        seconds = int(text) * 3600.0
    except ValueError:
        seconds = seconds_of(text)
    if seconds < 0:
        raise ValueError(f"{text!r} is below 0")
    return seconds


_LISTS: Sequence[Form] = (
    Form.LIST,
    Form.BIND_URLS,
    Form.URLS,
    Form.CLUSTER,
    Form.GATES,
)

_TEXT_READERS: dict[Form, Callable[[str], Any]] = {
    Form.TEXT: str,
    Form.INTEGER: _integer,
    Form.BOOLEAN: _boolean,
    Form.DURATION: seconds_of,
    Form.LIST: _list,
    Form.BIND_URLS: _bind_urls,
    Form.URLS: _urls,
    Form.CLUSTER: _cluster,
    Form.GATES: _gates,
    Form.RETENTION: str,
}
