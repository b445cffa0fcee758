# SPDX-License-Identifier: Apache-2.0
"""``agentwall admit``: put a container under its policy before it runs, or end that."""

from __future__ import annotations

import sys

import click

from agentwall.cli import admission
from agentwall.sinks.escape import printable


@click.command()
@click.option(
    "--pid",
    type=click.IntRange(min=1),
    metavar="PID",
    help="A process of the sandbox. Without it the OCI state of a hook is read from stdin.",
)
@click.option("--policy", metavar="NAME", help="Of a policy that the daemon has.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--release", is_flag=True, help="The container has ended: as poststop hook.")
@click.option(
    "--allow-unwatched",
    is_flag=True,
    help="Where the daemon is not running, say so and let the container start.",
)
@click.option(
    "--allow-unmatched",
    is_flag=True,
    help="Let a container start that no policy is for: where a hook runs for each of them.",
)
@click.option(
    "--socket",
    "path",
    default=admission.SOCKET,
    show_default=True,
    type=click.Path(),
    help="The daemon's control socket.",
)
def admit(
    pid: int | None,
    policy: str | None,
    labels: tuple[str, ...],
    release: bool,
    allow_unwatched: bool,
    allow_unmatched: bool,
    path: str,
) -> int:
    """Put a sandbox under its policy, as an OCI createRuntime hook or by hand.

    Exits 0 only if the wall stands: 1 where the daemon refuses, 2 on wrong usage, 3 where no
    daemon runs. A runtime that is told so does not start the container.
    """
    if pid is not None and release:
        raise click.UsageError("--release reads an OCI state, and takes no --pid")
    try:
        wanted = _from_stdin(release=release) if pid is None else admission.Wanted(pid=pid)
        wanted.labels |= _parse_labels(labels)
        wanted.policy = policy or wanted.policy
        wanted.unwatched, wanted.unmatched = allow_unwatched, allow_unmatched
        result = admission.fulfil(wanted, path)
    except admission.Failure as failure:
        admission.say(f"{'release' if release else 'admit'}: {failure}")
        return failure.code
    if result is None and not release:
        admission.say_unwatched(wanted)
    # A runtime may take what its hooks print for its own output.
    elif result is not None and pid is not None:
        click.echo(printable(_describe(result)))
    return 0


def _from_stdin(*, release: bool) -> admission.Wanted:
    if sys.stdin.isatty():
        raise click.UsageError("expected --pid, or an OCI state on stdin")
    return admission.read_state(admission.read_stdin(), release=release)


def _describe(result: dict[str, object]) -> str:
    if not result.get("sandbox"):
        return "no policy is for it"
    words = [f"{key} {result[key]}" for key in ("policy", "phase", "coverage") if result.get(key)]
    return f"sandbox {result['sandbox']}: {', '.join(words)}"


def _parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    pairs = [label.partition("=") for label in labels]
    if any(not key or not separator for key, separator, _ in pairs):
        raise click.UsageError("--label: expected KEY=VALUE")
    return {key: value for key, _, value in pairs}
