"""The settings part of ``docs/configuration.md``, made from the model.

``python -m revstore.config.document docs/configuration.md`` writes it anew between the
two marks; a test compares page and model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from revstore.config import foreign
from revstore.config.forms import Form
from revstore.config.settings import SETTINGS, Setting

BEGIN = "<!-- settings: begin (made from the model) -->"
END = "<!-- settings: end -->"

_TYPES = {Form.DURATION: "duration", Form.RETENTION: "duration, hours or revisions"}


def settings_text() -> str:
    """All settings as Markdown, one table for each group. Raises: nothing."""
    parts = []
    for group, settings in groupby(SETTINGS.values(), key=lambda each: each.group):
        parts += [f"### {group}", ""]
        parts += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        parts += [_row(setting) for setting in settings]
        parts.append("")
    parts += ["### Accepted without effect", ""]
    parts += ["| flag of etcd | why nothing happens |", "|---|---|"]
    parts += [f"| `{name}` | {why} |" for name, why in foreign.NO_EFFECT.items()]
    parts += ["", "### Refused", ""]
    parts += ["| flag of etcd | accepted values | instead |", "|---|---|---|"]
    for name, (harmless, advice) in foreign.REFUSED.items():
        values = ", ".join(f"`{value}`" if value else "empty" for value in harmless)
        parts.append(f"| `{name}` | {values} | {advice} |")
    parts += ["", "### Old spellings", ""]
    parts += ["| flag of etcd | means |", "|---|---|"]
    parts += [f"| `{old}` | `{new}` |" for old, new in foreign.RENAMED.items()]
    parts += [
        f"| `{old}` | `feature-gates={gate}=true` |"
        for old, gate in foreign.GATED.items()
    ]
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    default = setting.default_text()
    meaning = setting.meaning.replace("|", "\\|")
    choices = [f"`{choice}`" for choice in setting.choices if choice]
    if choices:
        meaning += f" One of {', '.join(choices)}."
    form = _TYPES.get(setting.form, setting.form.value)
    shown = f"`{default}`" if default else "empty"
    return f"| `{setting.name}` | {form} | {shown} | {meaning} |"


def with_settings(page: str) -> str:
    """The page with the part between the marks made anew.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{settings_text()}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Rewrite the page whose path is given."""
    path = Path(arguments[0])
    path.write_text(with_settings(path.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
