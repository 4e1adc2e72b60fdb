"""The examples of docs/client.md run as they are written."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import revstore.client
from tests.support.server import start_server
from tests.tidy.files import REPOSITORY

pytestmark = pytest.mark.slow

DOCUMENT = REPOSITORY / "docs" / "client.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
URL = "http://127.0.0.1:2379"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the examples find a server."""
    folder = tmp_path_factory.mktemp("document")
    with start_server("memory", folder / "data") as server:
        yield server.url


def examples() -> list[str]:
    """The code of all examples."""
    return [textwrap.dedent(found) for found in EXAMPLE.findall(DOCUMENT.read_text())]


@pytest.mark.parametrize("place", range(len(examples())))
def test_examples_run(url: str, place: int) -> None:
    """Each for itself, with a client where it uses one."""
    code = examples()[place].replace(URL, url)
    with revstore.client.connect_sync(url) as client:
        names: dict[str, Any] = {"client": client, "revstore": revstore}
        exec(compile(code, f"{DOCUMENT.name}[{place}]", "exec"), names)
        if "put_once" in names:
            key = f"once{place}"
            assert names["put_once"](client, key, b"v", 0)
            assert not names["put_once"](client, key, b"w", 0)
            pair = client.get(key)
            assert pair is not None
            assert pair.value == b"v"


def test_the_tables_name_what_there_is() -> None:
    """Every schemes' transport and every public name that the page promises exists."""
    text = DOCUMENT.read_text()
    for name in re.findall(r"`revstore\.client\.([A-Za-z_]+)`", text):
        assert name in revstore.client.__all__
    for group, home in (("cluster", "Cluster"), ("maintenance", "Maintenance")):
        line = next(one for one in text.splitlines() if f"`client.{group}` has" in one)
        module = __import__(f"revstore.client.{group}", fromlist=[home])
        for name in re.findall(r"`([a-z_]+)`", line):
            assert hasattr(getattr(module, home), name), name


def test_the_document_is_there() -> None:
    """With more than a few examples."""
    assert isinstance(DOCUMENT, Path)
    assert len(examples()) >= 6
