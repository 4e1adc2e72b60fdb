"""The generated part of ``docs/plugins/interfaces.md``: clauses and methods.

``python -m revstore.plugin.document docs/plugins/interfaces.md`` writes it anew between
the two marks; a test compares page and interfaces.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from revstore.interfaces import backend, channel, consensus, peers, transport, wal

BEGIN = "<!-- interfaces: begin (made from the code) -->"
END = "<!-- interfaces: end -->"

_PARTS: tuple[tuple[str, ModuleType, tuple[type, ...]], ...] = (
    ("Backend", backend, (backend.Backend, backend.Snapshot)),
    ("WAL", wal, (wal.Wal,)),
    ("Consensus", consensus, (consensus.Consensus,)),
    (
        "Transport",
        transport,
        (
            transport.Transport,
            transport.ClientServer,
            transport.Call,
            transport.Stream,
        ),
    ),
    ("Channel", channel, (channel.Channel, channel.ChannelStream)),
    (
        "Peers",
        peers,
        (
            peers.PeerTransport,
            peers.Peers,
            peers.OutgoingStream,
            peers.IncomingStream,
        ),
    ),
)

_CLAUSE = re.compile(r"^([A-Z]-\d\d)  (.*(?:\n {6}.*)*)", re.MULTILINE)


def clauses(module: ModuleType) -> dict[str, str]:
    """The numbered clauses of an interface, by number. Raises: nothing."""
    found = _CLAUSE.findall(inspect.getdoc(module) or "")
    return {number: " ".join(text.split()).replace("``", "`") for number, text in found}


def methods(interface: type) -> dict[str, str]:
    """Signature of each method that an implementation has to write. Raises: nothing."""
    names = [name for name in vars(interface) if _is_abstract(interface, name)]
    return {name: _signature(interface, name) for name in names}


def _is_abstract(interface: type, name: str) -> bool:
    return bool(getattr(vars(interface)[name], "__isabstractmethod__", False))


def _signature(interface: type, name: str) -> str:
    function = vars(interface)[name]
    if isinstance(function, property):
        return name
    prefix = "async " if inspect.iscoroutinefunction(function) else ""
    text = str(inspect.signature(function)).replace("'", "")
    text = text.replace("(self, ", "(").replace("(self)", "()")
    return f"{prefix}{name}{text}"


def interfaces_text() -> str:
    """Clauses and methods of all interfaces as Markdown. Raises: nothing."""
    parts = []
    for title, module, interfaces in _PARTS:
        parts += [f"## {title}", "", f"Module `{module.__name__}`.", ""]
        parts += [f"- **{number}** {text}" for number, text in clauses(module).items()]
        for interface in interfaces:
            parts += ["", f"### `{interface.__name__}`", ""]
            parts += [_paragraph(inspect.getdoc(interface) or ""), ""]
            for name, signature in methods(interface).items():
                document = inspect.getdoc(getattr(interface, name)) or ""
                parts += [f"- `{signature}`: {_paragraph(document)}"]
        parts.append("")
    return "\n".join(parts).rstrip()


def _paragraph(document: str) -> str:
    """A docstring in one line, with its Raises section as a list in words."""
    body, found, raises = document.partition("Raises:\n")
    text = " ".join(body.split())
    if found:
        text += " Raises " + "; ".join(
            " ".join(part.split()) for part in re.split(r"\n(?=    \w+: )", raises)
        )
    return text.replace("``", "`")


def with_interfaces(page: str) -> str:
    """The page with the part between the marks made anew.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{interfaces_text()}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Rewrite the page whose path is given."""
    path = Path(arguments[0])
    path.write_text(with_interfaces(path.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
