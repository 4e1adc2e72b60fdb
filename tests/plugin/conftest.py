"""Fake distributions on ``sys.path``, as a stranger's installed package would be."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

WAL_TEMPLATE = """
    from revstore.hookspecs import hookimpl, WalPlugin
    from revstore.interfaces.wal import WalCapabilities

    def make(directory, metadata, threaded, options):
        {body}

    @hookimpl
    def revstore_register_wal(register):
        register(WalPlugin(
            name={name!r},
            summary="a fake",
            capabilities=WalCapabilities(persistent=False),
            factory=make,
            extra={extra!r},
            api_version={api_version},
        ))
"""


class Site:
    """A directory on ``sys.path`` into which distributions are put."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def distribution(
        self,
        name: str,
        entries: dict[str, str],
        *,
        version: str = "1.0",
        requires: tuple[str, ...] = (),
    ) -> None:
        """Write the metadata of a distribution with the given entry points."""
        folder = self.root / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        points = "\n".join(f"{key} = {value}" for key, value in entries.items())
        (folder / "entry_points.txt").write_text(f"[revstore]\n{points}\n")

    def module(self, name: str, source: str) -> None:
        """Write a module."""
        (self.root / f"{name}.py").write_text(textwrap.dedent(source))

    def plugin(self, name: str, source: str, *, distribution: str = "") -> None:
        """Write a module and a distribution whose one entry point it is."""
        module = f"fake_{name.replace('-', '_')}_{len(list(self.root.iterdir()))}"
        self.module(module, source)
        self.distribution(distribution or f"dist-{name}", {name: module})

    def wal(
        self,
        name: str,
        *,
        distribution: str = "",
        body: str = "raise OSError(5, 'no')",
        registered: str = "",
        extra: str = "",
        api: int = 1,
    ) -> None:
        """Install a plugin that registers a log made by ``body``."""
        source = WAL_TEMPLATE.format(
            name=registered or name, body=body, extra=extra, api_version=api
        )
        self.plugin(name, source, distribution=distribution)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty directory on ``sys.path``; modules loaded from it are forgotten."""
    root = tmp_path / "site"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    before = set(sys.modules)
    yield Site(root)
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]
