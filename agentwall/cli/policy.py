# SPDX-License-Identifier: Apache-2.0
"""``agentwall policy``: check, test, explain policies and print their schema."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
from rich.console import Console
from rich.text import Text

from agentwall.cli import failures
from agentwall.errors import PolicyError
from agentwall.flow.verdict import Direction, Verdict
from agentwall.net.destination import describe_destination, parse_destination
from agentwall.net.endpoint import Endpoint, destination
from agentwall.net.ports import describe, protocol_name
from agentwall.policy.evaluate import Decision, evaluate, loopback_scope
from agentwall.policy.explain import permit_line, suggest
from agentwall.policy.lint import lint_policy
from agentwall.policy.load import load_policy
from agentwall.policy.model import Loopback, Policy, PolicyTest
from agentwall.policy.schema import json_schema
from agentwall.sinks.escape import printable

EXIT_FINDING = 1

_COLOURS = {Verdict.ALLOW: "green", Verdict.DENY: "red"}


@click.group()
def policy() -> None:
    """Check, test and explain policy files."""


@policy.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--strict", is_flag=True, help="Exit with 1 if there are warnings.")
def check(files: tuple[str, ...], strict: bool) -> int:
    """Load policies and warn about what they hardly mean to say.

    Exits with 2 if one is invalid.
    """
    code = 0
    for path in files:
        loaded = _load(path)
        if loaded is None:
            code = failures.EXIT_USAGE
            continue
        warnings = lint_policy(loaded)
        for warning in warnings:
            _say(str(warning), "yellow", err=True)
        if warnings and strict:
            code = max(code, EXIT_FINDING)
        _say(f"{path}: {_summary(loaded)}", "")
    return code


def _summary(loaded: Policy) -> str:
    counts = (
        f"{len(rules)} {name}"
        for name, rules in (
            ("allow", loaded.allow),
            ("deny", loaded.deny),
            ("inbound", loaded.inbound),
            ("tests", loaded.tests),
        )
    )
    return f"valid ({', '.join(counts)})"


@policy.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def test(files: tuple[str, ...]) -> int:
    """Judge the rows under tests by the rules alone, whatever the mode.

    Loopback counts as in the host's network namespace, with listeners of others. Exits with 1 if
    a row fails, with 2 if a policy is invalid.
    """
    code = 0
    for path in files:
        loaded = _load(path)
        if loaded is None:
            code = failures.EXIT_USAGE
            continue
        failed = list(_failures(loaded))
        for failure in failed:
            _say(failure, "red", err=True)
        if failed:
            code = max(code, EXIT_FINDING)
        passed = len(loaded.tests) - len(failed)
        _say(f"{path}: {passed} of {len(loaded.tests)} tests passed", "")
    return code


def _failures(loaded: Policy) -> Iterator[str]:
    for row in loaded.tests:
        decision = _judge(loaded, row)
        if decision.verdict is not row.expect:
            yield (
                f"{row.where}: {describe_destination(row.remote)}: expected {row.expect.value}, "
                f"got {decision.verdict.value} ({_cause(decision)})"
            )


def _judge(loaded: Policy, row: PolicyTest) -> Decision:
    return evaluate(
        loaded,
        direction=Direction.OUT,
        remote=row.remote,
        loopback=loopback_scope(loaded, own_netns=False),
    )


def _cause(decision: Decision) -> str:
    if decision.rule is None or decision.prefix is None:
        return "no rule matches" if decision.verdict is Verdict.DENY else "loopback is free"
    return f"{decision.rule.id} at {decision.prefix.where}"


@policy.command()
@click.option("-p", "--policy", "path", required=True, metavar="POLICY", help="The policy file.")
@click.argument("dest")
@click.option(
    "--direction",
    type=click.Choice([d.value for d in Direction]),
    default=Direction.OUT.value,
    help="in: DEST opens a connection to the sandbox.",
)
@click.option(
    "--local-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The sandbox's port, for --direction in (default: DEST's port).",
)
@click.option(
    "--format", "style", type=click.Choice(["pretty", "json"]), default="pretty", show_default=True
)
def explain(path: str, dest: str, direction: str, local_port: int, style: str) -> int:
    """Say which rule decides about DEST.

    DEST is ADDRESS:PORT (TCP), udp/ADDRESS:PORT, [IPV6]:PORT, icmp/ADDRESS or
    ip/PROTOCOL/ADDRESS. Exits with 1 if it is denied.
    """
    try:
        remote = parse_destination(dest)
    except ValueError as err:
        raise click.BadParameter(str(err), param_hint="DEST") from err
    loaded = _load(path)
    if loaded is None:
        return failures.EXIT_USAGE
    towards = Direction(direction)
    port = (local_port or remote.port) if towards is Direction.IN else 0
    decision = evaluate(
        loaded,
        direction=towards,
        remote=remote,
        local_port=port,
        loopback=loopback_scope(loaded, own_netns=False),
    )
    if style == "json":
        click.echo(json.dumps(_explanation(loaded, remote, towards, port, decision)))
    else:
        _print_explanation(loaded, remote, towards, port, decision)
    return EXIT_FINDING if decision.verdict is Verdict.DENY else 0


def _print_explanation(
    loaded: Policy, remote: Endpoint, direction: Direction, port: int, decision: Decision
) -> None:
    _say(
        f"{decision.verdict.value}  {direction.value} {describe_destination(remote)}",
        _COLOURS[decision.verdict],
    )
    rule = decision.rule
    if rule is not None and decision.prefix is not None:
        _say(f"  rule    {rule.id}: {decision.prefix.network}, {describe(rule.ports)}", "")
        _say(f"  at      {decision.prefix.where}", "")
        if rule.note:
            _say(f"  note    {rule.note}", "")
    else:
        _say(f"  reason  {_cause(decision)}", "")
    if decision.verdict is Verdict.DENY:
        _say(f"  permit  {_suggestion(remote, direction, port, decision)}", "")
    if note := _loopback_note(loaded, remote, direction, decision):
        _say(f"  note    {note}", "")


def _loopback_note(
    loaded: Policy, remote: Endpoint, direction: Direction, decision: Decision
) -> str | None:
    outbound = direction is Direction.OUT and destination(remote.address).is_loopback
    if outbound and decision.rule is None and loaded.loopback is Loopback.AUTO:
        return (
            "in the host's network namespace; allowed where the listener belongs to the sandbox, "
            "or the sandbox has a network namespace of its own"
        )
    return None


def _suggestion(remote: Endpoint, direction: Direction, port: int, decision: Decision) -> str:
    return suggest(
        protocol=remote.protocol,
        remote=remote,
        direction=direction,
        local_port=port,
        code=decision.code,
        rule=decision.rule.id if decision.rule else None,
    )


def _explanation(
    loaded: Policy, remote: Endpoint, direction: Direction, port: int, decision: Decision
) -> dict[str, object]:
    rule, prefix = decision.rule, decision.prefix
    permit = None
    if decision.verdict is Verdict.DENY and rule is None:
        permit = permit_line(
            protocol=remote.protocol, remote=remote, direction=direction, local_port=port
        )
    return {
        "schema": "agentwall.explain/1",
        "policy": loaded.name,
        "direction": direction.value,
        "protocol": protocol_name(remote.protocol),
        "remote": {"address": str(remote.address), "port": remote.port},
        "local_port": port if direction is Direction.IN else None,
        "verdict": decision.verdict.value,
        "reason": {
            "code": decision.code.value,
            "rule": rule.id if rule else None,
            "file": prefix.where.path if prefix else None,
            "line": prefix.where.line if prefix else None,
        },
        "prefix": str(prefix.network) if prefix else None,
        "permit": permit,
        "note": _loopback_note(loaded, remote, direction, decision),
    }


@policy.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    click.echo(json_schema(), nl=False)


def _load(path: str) -> Policy | None:
    """Return the policy; or None, with everything that is wrong on stderr."""
    try:
        return load_policy(path)
    except PolicyError as err:
        failures.report(err)
        return None


def _say(text: str, style: str, *, err: bool = False) -> None:
    # A console of its own each time: the stream may have been replaced since the last one.
    console = Console(stderr=err, highlight=False, soft_wrap=True)
    console.print(Text(printable(text), style=style))
