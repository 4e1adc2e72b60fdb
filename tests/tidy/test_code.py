"""The style of the code, kept by the machine."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.tidy.files import python_files, relative, source_files, tree

MODULE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def test_modules_are_short() -> None:
    """No module is longer than the limit; split it by idea."""
    long = [
        f"{relative(path)}: {lines} lines"
        for path in python_files()
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES_MAX
    ]
    assert not long, long


def test_functions_are_short() -> None:
    """No function is longer than the limit; give its parts names."""
    long = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in source_files()
        for node in _functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long, long


def test_source_is_ascii() -> None:
    """Source files are ASCII, but for the diagrams of the error tree."""
    allowed = {"core/revstore/errors.py"}
    bad = [
        relative(path)
        for path in source_files()
        if relative(path) not in allowed and not path.read_text().isascii()
    ]
    assert not bad, bad


def test_modules_say_what_they_are() -> None:
    """Every module opens with a docstring."""
    silent = [
        relative(path) for path in python_files() if not ast.get_docstring(tree(path))
    ]
    assert not silent, silent


def test_tests_state_their_fact() -> None:
    """Every test has a docstring that states the fact it holds."""
    silent = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in python_files()
        if relative(path).startswith("tests/")
        for node in _functions(path)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert not silent, silent


def test_nothing_is_left_for_later() -> None:
    """No TODO, FIXME, breakpoint or NotImplementedError is left in the source."""
    words = re.compile(r"\b(TODO|FIXME|XXX|breakpoint\(|NotImplementedError)\b")
    found = [
        f"{relative(path)}:{number}"
        for path in source_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert not found, found


def test_tests_do_not_sleep() -> None:
    """Tests wait for conditions, never for time to pass."""
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in python_files()
        if relative(path).startswith("tests/")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "time"
    ]
    assert not found, found


def test_type_ignores_give_their_reason() -> None:
    """``type: ignore`` names the error and gives the reason behind it."""
    pattern = re.compile(r"# type: ignore(?!\[[\w, -]+\]\s+#\s+\S)")
    found = [
        f"{relative(path)}:{number}"
        for path in source_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, found


def test_interfaces_name_what_they_raise() -> None:
    """Each method of a contract says in its docstring what it raises."""
    silent = []
    for path in source_files():
        if "revstore/interfaces/" not in relative(path):
            continue
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ClassDef):
                continue
            for item in node.body:
                if not isinstance(item, ast.FunctionDef) or item.name.startswith("_"):
                    continue
                decorators = {ast.unparse(each) for each in item.decorator_list}
                if "abstractmethod" not in decorators:
                    continue
                if "Raises:" not in (ast.get_docstring(item) or ""):
                    silent.append(f"{relative(path)}:{item.lineno} {item.name}")
    assert not silent, silent
