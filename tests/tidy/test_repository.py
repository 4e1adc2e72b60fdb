"""The shape of the repository, kept by the machine."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from tests.tidy.files import REPOSITORY, ROOTS, packages, relative, tracked


def _project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_every_package_is_listed_everywhere() -> None:
    """A package is in the wheel, its check, and the import contracts alike."""
    found = sorted(relative(package) for package in packages())
    names = sorted(package.name for package in packages())
    tool = _project()["tool"]
    assert sorted(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == found
    assert sorted(tool["check-wheel-contents"]["toplevel"]) == names
    assert sorted(tool["importlinter"]["root_packages"]) == names
    layers = " ".join(tool["importlinter"]["contracts"][0]["layers"])
    assert sorted(re.findall(r"[a-z0-9_]+", layers)) == names


def test_every_plugin_has_an_entry_point() -> None:
    """A package with a plugin module is announced, and nothing else is."""
    modules = {
        f"{package.name}.plugin"
        for package in packages()
        if (package / "plugin.py").exists()
    }
    announced = set(_project()["project"]["entry-points"]["revstore"].values())
    assert announced == modules


def test_every_package_is_typed() -> None:
    """Each package carries the marker that makes its types count."""
    missing = [
        package.name for package in packages() if not (package / "py.typed").exists()
    ]
    assert not missing


def test_top_level_is_what_was_agreed() -> None:
    """No folder appears at the top level beside the agreed ones."""
    folders = {
        relative(path).split("/")[0] for path in tracked() if "/" in relative(path)
    }
    assert folders <= {*ROOTS, "tests", "docs", "examples", ".ci"}, folders


def test_no_lock_file_and_no_registry() -> None:
    """No lock file is tracked and no requirement names where it comes from."""
    locks = re.compile(
        r"(^|/)(uv\.lock|pylock[^/]*\.toml|poetry\.lock|package-lock\.json)$"
    )
    assert not [path for path in map(relative, tracked()) if locks.search(path)]
    options = re.compile(r"^\s*(--index-url|--extra-index-url|--find-links|-i )", re.M)
    named = [
        relative(path)
        for path in tracked()
        if path.suffix in {".txt", ".toml", ".cfg"} and options.search(path.read_text())
    ]
    assert not named


def test_no_path_of_a_machine() -> None:
    """No tracked text names the folder the repository happens to lie in."""
    place = f"{REPOSITORY}/"
    found = [
        relative(path)
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml", ".txt", ".proto", ""}
        and place in path.read_text(errors="ignore")
    ]
    assert not found, found


def test_pages_have_one_title_and_live_links() -> None:
    """Each Markdown page has one H1, and its relative links lead somewhere."""
    problems = []
    for page in tracked():
        if page.suffix != ".md":
            continue
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        titles = re.findall(r"^# ", text, flags=re.M)
        if len(titles) != 1:
            problems.append(f"{relative(page)}: {len(titles)} titles")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not (page.parent / target).exists():
                problems.append(f"{relative(page)}: dead link {target}")
    assert not problems, problems


def test_readme_commands_exist() -> None:
    """Every ``make`` verb that the README names is one of the Makefile."""
    verbs = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    readme = (REPOSITORY / "README.md").read_text()
    named = set(re.findall(r"`?make ([a-z]+)", readme))
    assert named <= verbs, named - verbs
