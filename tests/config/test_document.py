"""The page about the configuration says what the model says, and its examples load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from revstore.config import foreign, load_config
from revstore.config.document import main, with_settings
from revstore.config.forms import to_text
from revstore.config.load import RESERVED_VARIABLES
from revstore.config.profiles import PROFILES
from revstore.config.settings import SETTINGS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def page(name: str) -> str:
    """The text of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def test_page_is_up_to_date() -> None:
    """Run ``python -m revstore.config.document docs/configuration.md`` if not."""
    text = page("configuration.md")
    assert with_settings(text) == text


def test_every_name_is_documented() -> None:
    """No setting, foreign flag or variable is missing from the page."""
    text = page("configuration.md")
    names = [*SETTINGS, *foreign.NO_EFFECT, *foreign.REFUSED, *foreign.RENAMED]
    names += [*foreign.GATED, *RESERVED_VARIABLES]
    assert [name for name in names if f"| `{name}` |" not in text] == []


def test_example_file_loads(tmp_path: Path) -> None:
    """The page's TOML file is valid and means what it says."""
    (example,) = re.findall(r"```toml\n(.*?)```", page("configuration.md"), re.DOTALL)
    file = tmp_path / "revstore.toml"
    file.write_text(example, encoding="utf-8")
    loaded = load_config({}, {}, file)
    assert loaded.warnings == []
    assert loaded.config.data_dir == "/var/lib/revstore"
    assert loaded.config.auto_compaction_retention == 3600
    assert loaded.plugin_options["backend"] == {"readers_max": 4096}


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_value_of_a_profile_is_documented_with_a_reason(name: str) -> None:
    """Each setting of a profile has a row with its value and a reason."""
    section = page("profiles.md").partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    for setting, value in PROFILES[name].settings.items():
        text = to_text(SETTINGS[setting].form, value)
        assert f"| `{setting}` | `{text}` | " in section
    for (kind, plugin), options in PROFILES[name].options.items():
        for option in options:
            assert f"| option `{option}` of {kind} `{plugin}` |" in section
    rows = len(PROFILES[name].settings) + sum(map(len, PROFILES[name].options.values()))
    assert section.count("\n| ") == rows + 1


def test_generator_writes_the_page(tmp_path: Path) -> None:
    """The command makes the part between the marks and leaves the rest."""
    path = tmp_path / "page.md"
    path.write_text(page("configuration.md").replace("| `name` |", "| `nam` |"))
    assert main([str(path)]) == 0
    assert path.read_text(encoding="utf-8") == page("configuration.md")
    with pytest.raises(ValueError, match="needs the marks"):
        with_settings("# Page\n")
