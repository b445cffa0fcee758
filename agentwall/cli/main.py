# SPDX-License-Identifier: Apache-2.0
"""The ``agentwall`` command: finds the subcommand, and turns failures into exit codes.

A subcommand ``x`` is the click command ``x`` of ``agentwall/cli/x.py``. It is imported when it is
asked for, so that ``agentwall --version`` does not pay for pydantic and libbpf. It may return an
exit code, or nothing for 0.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import click

from agentwall import __version__
from agentwall.cli import failures
from agentwall.cli.streams import discard_stdout, open_missing_streams, show_warnings
from agentwall.errors import AgentwallError

SUBCOMMANDS = (
    *("run", "audit", "policy", "signature", "doctor"),
    *("daemon", "admit", "status", "sandbox", "top", "log", "reload", "explain"),
)
"""In the order of ``agentwall --help``; one whose module is not there is absent."""

EXIT_INTERRUPTED = 128 + 2
EXIT_BROKEN_PIPE = 128 + 13


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when the subcommand is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands that exist."""
        return [name for name in SUBCOMMANDS if find_spec(f"agentwall.cli.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a subcommand, or None when there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = getattr(import_module(f"agentwall.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="agentwall %(version)s")
def cli() -> None:
    """Let a command reach what a policy permits, and tell what else it tried."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: What follows the program's name; ``sys.argv[1:]`` when None.
    """
    open_missing_streams()
    show_warnings()
    try:
        code = _invoke(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except click.ClickException as error:
        error.show()
        return failures.EXIT_USAGE
    except AgentwallError as error:
        return failures.report(error)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno == errno.EPIPE:
            discard_stdout()
            return EXIT_BROKEN_PIPE
        # Without a name it is what was printed that found no place.
        if error.errno == errno.ENOSPC and error.filename is None:
            discard_stdout()
            failures.print_lines(["stdout: no space left on device"])
            return failures.EXIT_CANNOT_RUN
        raise


def _invoke(argv: list[str]) -> int:
    try:
        with cli.make_context("agentwall", argv) as ctx:
            returned = cli.invoke(ctx)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    return returned if isinstance(returned, int) else 0
