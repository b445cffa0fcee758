# SPDX-License-Identifier: Apache-2.0
"""``agentwall run``: a command behind a wall. Exits as the command does, or with 125.

0-124 and 128 up are the command's; 126 and 127 as a shell has them; 86 if ``--fail-on`` was met.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import Any

import click

from agentwall.cli import failures
from agentwall.daemon.inside_state import TlsUse
from agentwall.daemon.leftovers import find_leftovers
from agentwall.daemon.plan import RunRequest, describe_coverage
from agentwall.daemon.run import Outcome, run_sandbox
from agentwall.errors import AgentwallError
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Mode
from agentwall.host.capabilities import parse_capability
from agentwall.host.descriptors import judge_descriptors
from agentwall.host.identity import resolve_identity
from agentwall.policy.load import default_policy, load_policy
from agentwall.policy.model import Policy
from agentwall.policy.phases import in_phase
from agentwall.sinks.console import Console

EXIT_AGENTWALL = 125
EXIT_FOUND = 86
NEVER = "never"


class RunCommand(click.Command):
    """A command whose wrong usage exits with 125: 2 would be the command's own."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # noqa: ANN401
        """Parse the command line."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as err:
            err.show()
            raise click.exceptions.Exit(EXIT_AGENTWALL) from err


def _parse_labels(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"expected KEY=VALUE, got {value!r}")
        labels[key] = text
    return labels


@click.command(
    cls=RunCommand,
    short_help="Run a command behind a policy.",
    epilog=(
        "The command's /run is its own: sockets of services that would resolve names or start "
        "programs for it, outside (nscd, systemd-resolved, D-Bus, ...), are not in it, nor is what "
        "others put beside them later. Where the policy has a dns key, /etc/resolv.conf names the "
        "policy's servers."
    ),
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.option("-p", "--policy", metavar="POLICY", help="Policy file; without it all is denied.")
@click.option("--phase", metavar="NAME", help="The policy's phase.  [default: the first one]")
@click.option(
    "--mode", type=click.Choice([mode.value for mode in Mode]), help="Instead of the policy's."
)
@click.option(
    "--signatures",
    metavar="PATH",
    multiple=True,
    help="More signatures: a file, or a directory of them.",
)
@click.option(
    "--tls",
    type=click.Choice([use.value for use in TlsUse]),
    default=TlsUse.AUTO.value,
    show_default=True,
    help="Read what the command's TLS libraries are handed; auto: where this host can (bcc).",
)
@click.option("--user", metavar="U", help="Run as this user: a name or a number.")
@click.option(
    "--label",
    "labels",
    metavar="K=V",
    multiple=True,
    callback=_parse_labels,
    help="For the events.",
)
@click.option(
    "--events",
    metavar="F",
    help="Event file; must not exist.  [default: in /var/log/agentwall/runs]",
)
@click.option("--report", metavar="F", help="Write audit's report: .md, .json, or text.")
@click.option(
    "--fail-on",
    type=click.Choice([*(severity.label for severity in Severity), NEVER]),
    default=NEVER,
    show_default=True,
    help="Exit with 86 for anything at least this serious.",
)
@click.option("--require-full", is_flag=True, help="Do not start with roads left open.")
@click.option(
    "--keep-cap", "keep_caps", metavar="C", multiple=True, help="Keep a capability; opens a road."
)
@click.option(
    "--keep-fd",
    "keep_fds",
    metavar="N",
    type=click.IntRange(0, 1 << 20),
    multiple=True,
    help="Hand a descriptor to the command.",
)
@click.option(
    "--keep-socket",
    "keep_sockets",
    metavar="PATH",
    multiple=True,
    help="Leave a service in reach that resolves names or starts programs; opens a road.",
)
@click.option("--quiet", is_flag=True, help="Write nothing to stderr but agentwall's own failures.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
def run(
    policy: str | None,
    phase: str | None,
    mode: str | None,
    signatures: tuple[str, ...],
    tls: str,
    user: str | None,
    labels: dict[str, str],
    events: str | None,
    report: str | None,
    fail_on: str,
    require_full: bool,
    keep_caps: tuple[str, ...],
    keep_fds: tuple[int, ...],
    keep_sockets: tuple[str, ...],
    quiet: bool,
    command: tuple[str, ...],
) -> int:
    """Run CMD in a sandbox from which nothing leaves that the policy does not permit.

    The sandbox is a cgroup below the caller's own, and mount and PID namespaces. It ends with the
    command: processes the command leaves in the background are ended with it. Lines on stderr
    that begin with "agentwall:" are agentwall's; stdout is the command's alone.
    """
    sys.excepthook = _end_as_agentwall
    console = Console(sys.stderr, quiet=quiet)
    try:
        request = RunRequest(
            inherited=judge_descriptors(keep_fds),  # First: no descriptor is agentwall's own yet.
            argv=command,
            environment=dict(os.environ),
            policy=in_phase(_load(policy), phase),
            mode=Mode(mode) if mode else None,
            identity=resolve_identity(user, os.environ),
            labels=labels,
            kept_capabilities=tuple(dict.fromkeys(map(parse_capability, keep_caps))),
            events=events,
            report=report,
            requires_full=require_full,
            kept_sockets=keep_sockets,
            signatures=signatures,
            tls=TlsUse(tls),
        )
        _name_leftovers(console)
        outcome = run_sandbox(request, console)
    except (AgentwallError, OSError) as err:
        return _fail(err)
    return _conclude(console, outcome, command[0], fail_on)


def _fail(err: AgentwallError | OSError) -> int:
    if isinstance(err, AgentwallError):
        failures.report(err)
    else:
        failures.print_lines([str(err)])
    return EXIT_AGENTWALL


def _end_as_agentwall(
    kind: type[BaseException], value: BaseException, trace: TracebackType | None
) -> None:
    # A fault in agentwall must not look like the command's own exit code 1.
    traceback.print_exception(kind, value, trace)
    sys.stderr.flush()
    os._exit(EXIT_AGENTWALL)


def _load(path: str | None) -> Policy:
    return default_policy() if path is None else load_policy(path)


def _name_leftovers(console: Console) -> None:
    found = find_leftovers()
    if found:
        # Those inside keep their wall unless they are ended first.
        advice = "--clean --kill ends" if any(left.pids for left in found) else "--clean clears"
        console.say(
            f"left over from runs that were killed: {'; '.join(map(str, found))}"
            f" (agentwall doctor {advice} them)"
        )


def _conclude(console: Console, outcome: Outcome, program: str, fail_on: str) -> int:
    if outcome.ending.not_executed:
        failures.print_lines([f"{program}: {outcome.ending.not_executed}"])
    notes = [f"coverage: {describe_coverage(outcome.coverage)}"]
    if outcome.ending.left_behind:
        notes.append(f"ended with the command: {', '.join(outcome.ending.left_behind)}")
    if outcome.events_failed:
        notes.append(f"{outcome.events_failed} events could not be written")
    notes.append(f"events: {outcome.events}")
    console.summary(notes)
    failures.print_lines(outcome.problems)
    return _exit_code(outcome, fail_on)


def _exit_code(outcome: Outcome, fail_on: str) -> int:
    worst = outcome.ending.worst
    # What is merely told of is no finding, whatever the threshold.
    if fail_on != NEVER and worst > Severity.INFO and worst >= Severity[fail_on.upper()]:
        return EXIT_FOUND
    return outcome.ending.exit_code
