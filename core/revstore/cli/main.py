"""The command ``revstore``.

Rules of this file:

1. Only click is imported at the top; each command imports what it needs.
2. Exit codes: 0 ok, 1 failure, 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from revstore.cli import output
from revstore.cli.lazy import LazyGroup

_COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve:serve", "Run a server."),
    "demo": ("demo:demo", "Run a cluster on this machine to try."),
    "ctl": ("ctl:ctl", "Talk to the members of a cluster."),
    "config": ("config:config", "Check and show configurations."),
    "plugins": ("plugins:plugins", "List and check plugins."),
    "sim": ("sim:sim", "Run simulated clusters and check them."),
    "version": ("version:version", "Print the versions."),
}
"""Where each command is, and its line in the help."""


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from revstore.cli.version import version_lines

        output.line("\n".join(version_lines()))
        ctx.exit(output.OK)


@click.group(
    cls=LazyGroup,
    table=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Print a traceback with every error.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions and exit.",
)
def cli(debug: bool) -> None:
    """An etcd-compatible, revisioned key-value store whose parts are plugins.

    'revstore serve' runs a server with etcd's flags; the client of any language
    that speaks to etcd v3 speaks to it.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Raises: nothing."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = False
    try:
        with cli.make_context("revstore", list(given)) as context:
            debug = bool(context.params.get("debug"))
            result = cli.invoke(context)
            return result if isinstance(result, int) else output.OK
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.exceptions.NoArgsIsHelpError as exc:
        output.line(exc.format_message())
        return output.USAGE
    except click.UsageError as exc:
        output.error(exc.format_message())
        path = exc.ctx.command_path if exc.ctx is not None else "revstore"
        output.warn_help(path)
        return output.USAGE
    except click.ClickException as exc:
        output.error(exc.format_message())
        return output.FAILURE
    except (click.Abort, KeyboardInterrupt):
        output.error("interrupted")
        return output.FAILURE
    except BrokenPipeError:
        return _quiet_pipe()
    except Exception as exc:
        return _failed(exc, debug=debug or "--debug" in given)


def _failed(exc: Exception, *, debug: bool) -> int:
    from revstore.errors import RevstoreError, UsageError

    debug = debug or output.show_traceback()
    if isinstance(exc, RevstoreError):
        output.error_of(exc, debug=debug)
        return output.USAGE if isinstance(exc, UsageError) else output.FAILURE
    if isinstance(exc, OSError):
        output.error_of(exc, debug=debug)
        return output.FAILURE
    output.error_of(exc, debug=debug)
    output.error(
        f"this is a bug in revstore ({type(exc).__name__}); run again with "
        "'revstore --debug ...' and report what it prints"
    )
    return output.FAILURE


def _quiet_pipe() -> int:
    """The reader went away (``revstore ... | head``): no error worth a word."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return output.FAILURE
