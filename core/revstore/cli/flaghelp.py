"""The help of ``revstore serve``, made from the table of settings."""

from __future__ import annotations

import textwrap
from itertools import groupby

from revstore.config.forms import Form
from revstore.config.profiles import PROFILES
from revstore.config.settings import SETTINGS, Setting

_WIDTH = 88

_HEAD = """\
Usage: revstore serve [FLAGS]

  Run a server that speaks etcd's v3 API. All flags of etcd 3.6 are understood and
  written as etcd writes them: --name one, --name=one, -name one; a boolean stands
  alone or takes its value behind '=' (--pre-vote=false). Durations are written like
  100ms, 5s or 1h30m.

  Without any flag one member serves clients at http://localhost:2379 and keeps its
  data in the directory default.revstore.

Files and plugins:
  --config FILE
      TOML file with a table [server] (the names below) and one for each plugin.
  --set PLUGIN.OPTION=VALUE
      Option of a plugin in use; may be given several times. 'revstore plugins show
      NAME' lists the options.
  --debug
      Log at level debug, and print a traceback with an error."""

_TAIL = """\
Order, the later wins: default, profile, file, environment, flag.
Variables: REVSTORE_NAME or ETCD_NAME for --name, and so on; REVSTORE_ wins.
'revstore config show' takes the same flags and tells where each value comes from."""


def serve_help() -> str:
    """The whole text. Raises: nothing."""
    parts = [_HEAD]
    for group, settings in groupby(SETTINGS.values(), key=lambda each: each.group):
        parts.append("\n".join([f"{group}:", *map(_describe, settings)]))
    profiles = [
        f"  {profile.name:13}{profile.summary}" for profile in PROFILES.values()
    ]
    parts.append("\n".join(["Profiles:", *profiles]))
    parts.append(_TAIL)
    return "\n\n".join(parts)


def _describe(setting: Setting) -> str:
    default = setting.default_text()
    shown = f" '{default}'" if setting.form is not Form.BOOLEAN else f"={default}"
    text = setting.meaning
    choices = [choice for choice in setting.choices if choice]
    if choices:
        text += f" One of {', '.join(choices)}."
    indent = " " * 6
    filled = textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent
    )
    return f"  --{setting.name}{shown}\n{filled}"
