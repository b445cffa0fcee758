# SPDX-License-Identifier: Apache-2.0
"""``agentwall daemon``: keep every sandbox of this host under its policy."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from agentwall.cli.failures import EXIT_CANNOT_RUN, EXIT_USAGE, print_lines
from agentwall.client import Client
from agentwall.daemon.config import CONFIG, CONTROL_SOCKET
from agentwall.errors import DaemonNotRunningError

_FORMAT = "%(levelname)s %(name)s: %(message)s"


@click.command()
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path),
    help=f"The configuration instead of {CONFIG}.",
)
@click.option("--socket", type=click.Path(path_type=Path), default=CONTROL_SOCKET, hidden=True)
@click.option("--stop", is_flag=True, help="End the running daemon; needs --keep.")
@click.option("--keep", is_flag=True, help="With --stop: the wall stays as it is.")
@click.option(
    "--detach", is_flag=True, help="End the daemon and take the wall down: sandboxes are free."
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def daemon(
    config: Path | None, socket: Path, stop: bool, keep: bool, detach: bool, verbose: bool
) -> int:
    """Find sandboxes, put each under its policy from birth, and keep it there.

    SIGHUP reads everything anew; SIGTERM ends the daemon, and the wall stands. What it tells of
    sandboxes goes to the event log; what it tells of itself goes to standard error.
    """
    if stop and detach:
        raise click.UsageError("--stop leaves the wall as it is, --detach takes it down: not both")
    if keep and not stop:
        raise click.UsageError("--keep goes with --stop")
    if stop and not keep:
        raise click.UsageError(
            "--stop: say --stop --keep to leave the wall as it is, or --detach to take it down"
        )
    if stop:
        return _stop(socket)
    return _detach(socket, config) if detach else _serve(config, verbose=verbose)


def _stop(socket: Path) -> int:
    with Client(socket) as client:
        client.stop(keep=True)
    click.echo("agentwall: stopped; the wall stands")
    return 0


def _detach(socket: Path, config: Path | None) -> int:
    try:
        with Client(socket) as client:
            client.detach()
    except DaemonNotRunningError:
        from agentwall.daemon.building import take_down_offline
        from agentwall.daemon.config_load import load_config

        gone = take_down_offline(load_config(config or CONFIG, must_exist=config is not None))
        click.echo(f"agentwall: no daemon is running; took down what one left ({gone} pins)")
        return 0
    click.echo("agentwall: stopped; the wall is down")
    return 0


def _do_without_openssl() -> None:
    """Have hashlib use Python's own SHA-256: OpenSSL is 3.4 MB that stay resident, for 6 us less a
    line of the log."""
    own = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
    # Some distributions build Python without.
    if own in sys.builtin_module_names or find_spec(own) is not None:
        sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type] # importing it fails


def _serve(config: Path | None, *, verbose: bool) -> int:
    _do_without_openssl()
    # Heavy, and of no use to --stop.
    from agentwall.daemon.edition import Request
    from agentwall.daemon.service import Service

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format=_FORMAT, stream=sys.stderr)
    # Otherwise each warning would be there twice.
    logging.getLogger("agentwall").handlers.clear()
    # What another thread computes is not to hold up the loop for five milliseconds.
    sys.setswitchinterval(0.0005)
    request = Request(config=str(config or CONFIG), must_exist=config is not None)
    rejected = Service(request).run()
    if rejected is None:
        return 0
    print_lines(rejected.problems)
    print_lines(["not started: what an earlier daemon left stands as it is"])
    return EXIT_USAGE if rejected.is_usage else EXIT_CANNOT_RUN
