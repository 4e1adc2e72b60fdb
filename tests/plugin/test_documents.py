"""The pages about plugins say what the code says, and their examples run."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revstore import hookspecs
from revstore.errors import ConfigError, PluginError, StorageError, UsageError
from revstore.interfaces.backend import Durability, WriteBatch
from revstore.plugin import KINDS, PluginManager
from revstore.plugin.document import clauses, methods, with_interfaces
from revstore.plugin.kinds import FACTS

PAGES = Path(__file__).resolve().parents[2] / "docs" / "plugins"
ENTRY = {"sorted": "fake_revstore_sorted"}


def page(name: str) -> str:
    """The text of a page."""
    return (PAGES / name).read_text(encoding="utf-8")


def examples(name: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)


def test_the_example_of_a_backend_works_as_a_third_party_plugin(
    site: Any, tmp_path: Path
) -> None:
    """The page's backend, installed under foreign metadata, is found, made and used."""
    site.distribution("revstore-sorted", ENTRY, version="0.3")
    site.module(ENTRY["sorted"], examples("writing.md")[0])
    manager = PluginManager({})
    report = next(each for each in manager.all() if each.name == "sorted")
    assert (report.distribution, report.version) == ("revstore-sorted", "0.3")
    assert report.status == "ok"
    options = {"keys_max": 3}
    backend = manager.make_backend("sorted", tmp_path / "d", ["one", "two"], options)
    batch = WriteBatch()
    for key in (b"a", b"b", b"c"):
        batch.put("one", key, key * 2)
    backend.write(batch, Durability.VOLATILE)
    with backend.snapshot() as snapshot:
        backend.write(_deletion(b"a", b"c"), Durability.VOLATILE)
        assert snapshot.get_many("one", [b"a", b"x"]) == [b"aa", None]
        assert list(snapshot.scan("one", b"", None, chunk=2)) == [
            [(b"a", b"aa"), (b"b", b"bb")],
            [(b"c", b"cc")],
        ]
        found = list(snapshot.scan("one", b"a", b"c", reverse=True, limit=1))
        assert found == [[(b"b", b"bb")]]
    with backend.snapshot() as snapshot:
        assert snapshot.get("one", b"a") is None
    assert backend.stats().size_bytes == 3
    with pytest.raises(UsageError, match="SYNC is not supported"):
        backend.write(batch, Durability.SYNC)
    backend.close()
    with pytest.raises(StorageError, match="is closed"):
        backend.snapshot()
    with pytest.raises(ConfigError, match="its options are keys_max"):
        manager.make_backend("sorted", tmp_path / "d", ["one"], {"keys": 3})


def _deletion(lo: bytes, hi: bytes) -> WriteBatch:
    batch = WriteBatch()
    batch.delete_range("one", lo, hi)
    return batch


def test_the_example_of_registering_works() -> None:
    """The page's second example registers a descriptor and makes a backend."""
    module: dict[str, Any] = {"__name__": "example"}
    exec(examples("writing.md")[0], module)  # the page's own text
    found: list[Any] = []
    module["revstore_register_backend"](found.append)
    exec(examples("writing.md")[1], {"descriptor": found[0]})  # the page's own text


@pytest.mark.parametrize("kind", KINDS)
def test_each_hook_is_documented_with_its_signature(kind: Any) -> None:
    """The heading of a hook is its exact signature, and there are no other hooks."""
    hook = FACTS[kind].hook
    signature = str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")
    assert f"## `{hook}{signature}`\n" in page("hooks.md")
    hooks = {name for name in vars(hookspecs) if name.startswith("revstore_register_")}
    assert hooks == {FACTS[each].hook for each in KINDS}


@pytest.mark.parametrize("place", range(len(KINDS)))
def test_examples_of_hooks_register_and_miss_their_driver(
    site: Any, place: int, tmp_path: Path
) -> None:
    """Each example is a valid plugin whose driver is missing, as a user would see it."""
    example = examples("hooks.md")[place]
    site.distribution("mine-dist", {"mine": "fake_mine"})
    site.module("fake_mine", example)
    manager = PluginManager({})
    report = next(each for each in manager.all() if each.name == "mine")
    assert report.status == "ok"
    assert f"revstore_register_{report.kind}(" in example
    assert "some_driver" not in sys.modules
    start: Any = None
    make: dict[str, Callable[[], object]] = {
        "backend": lambda: manager.make_backend("mine", tmp_path, []),
        "wal": lambda: manager.make_wal("mine", tmp_path, b"", False),
        "consensus": lambda: manager.make_consensus("mine", start),
        "transport": lambda: manager.make_transport("mine"),
    }
    with pytest.raises(PluginError, match=r"pip install 'mine-dist\[driver\]'"):
        make[report.kind]()


def test_interfaces_page_is_up_to_date() -> None:
    """Run ``python -m revstore.plugin.document docs/plugins/interfaces.md`` if not."""
    text = page("interfaces.md")
    assert with_interfaces(text) == text


def test_every_clause_and_method_is_on_the_page() -> None:
    """The generator finds what is in the interfaces."""
    text = page("interfaces.md")
    for kind in KINDS:
        module = sys.modules[FACTS[kind].product.__module__]
        numbers = re.findall(r"^([A-Z]-\d\d)  ", module.__doc__ or "", re.MULTILINE)
        assert len(numbers) > 5
        assert list(clauses(module)) == numbers
        assert all(f"**{number}**" in text for number in numbers)
        wanted = FACTS[kind].product.__abstractmethods__  # type: ignore[attr-defined]
        assert set(methods(FACTS[kind].product)) == set(wanted)


def test_page_without_marks_is_refused() -> None:
    """A page that lost its marks is not overwritten."""
    with pytest.raises(ValueError, match="needs the marks"):
        with_interfaces("# Interfaces\n")
