# SPDX-License-Identifier: Apache-2.0
"""``agentwall policy``: check, test, explain policies and print their schema."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
from rich.console import Console
from rich.text import Text

from agentwall.cli import failures
from agentwall.cli.explanation import Explanation, as_json, as_lines, cause
from agentwall.cli.learn import learn
from agentwall.detect.judging import known_groups
from agentwall.errors import PolicyError
from agentwall.flow.verdict import Direction, Verdict
from agentwall.host.signature_text import is_signature_file
from agentwall.net.destination import describe_destination, parse_target
from agentwall.net.endpoint import NamedEndpoint
from agentwall.policy.evaluate import Decision, evaluate, evaluate_name, loopback_scope
from agentwall.policy.lint import lint_policy
from agentwall.policy.lint_detect import dialect_warnings
from agentwall.policy.load import load_policy
from agentwall.policy.model import Policy, PolicyTest
from agentwall.policy.phases import PhaseError, every_rule, in_phase
from agentwall.policy.schema import json_schema
from agentwall.policy.warning import LintWarning
from agentwall.sinks.escape import printable

EXIT_FINDING = 1

_COLOURS = {Verdict.ALLOW: "green", Verdict.DENY: "red"}


_in_phase = click.option(
    "--phase", metavar="NAME", help="As the policy holds in this phase.  [default: the first one]"
)


@click.group()
def policy() -> None:
    """Check, test, explain and learn policy files."""


policy.add_command(learn)


@policy.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--strict", is_flag=True, help="Exit with 1 if there are warnings.")
@click.option("--phase", metavar="NAME", help="Warn about this phase only.  [default: all]")
def check(files: tuple[str, ...], strict: bool, phase: str | None) -> int:
    """Load policies and warn about what they hardly mean to say.

    A file of signatures is checked as such, with its examples. Exits with 2 if one is invalid.
    """
    code = 0
    for path in files:
        if is_signature_file(path):
            # Its module needs NumPy and the compiler, which policies do without.
            from agentwall.cli.signature import check_file

            code = max(code, check_file(path))
            continue
        loaded = _load(path)
        if loaded is None or (phase is not None and _enter(loaded, phase) is None):
            code = failures.EXIT_USAGE
            continue
        try:
            judged = loaded if phase is None else in_phase(loaded, phase)
            warnings = (*lint_policy(judged), *_about_dialects(loaded))
        except PolicyError as err:
            failures.report(err)
            code = failures.EXIT_USAGE
            continue
        for warning in warnings:
            _say(str(warning), "yellow", err=True)
        if warnings and strict:
            code = max(code, EXIT_FINDING)
        _say(f"{path}: {_summary(loaded)}", "")
    return code


def _about_dialects(loaded: Policy) -> Iterator[LintWarning]:
    """Yield warnings that need the signatures, which are read only if a rule excepts a dialect.

    Raises:
        PolicyError: A signature file in force is invalid.
    """
    if not any("/" in entry for rule in every_rule(loaded) for entry in rule.excepts):
        return
    # As above: policies without such exceptions need neither NumPy nor the compiler.
    from agentwall.host.signature_files import read_signatures

    yield from dialect_warnings(loaded, known_groups(read_signatures()))


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
    excepting = sum(1 for rule in every_rule(loaded) if rule.excepts)
    noted = f", {excepting} with exceptions" if excepting else ""
    phases = f", phases {', '.join(each.name for each in loaded.phases)}" if loaded.phases else ""
    return f"valid ({', '.join(counts)}{noted}{phases})"


@policy.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_in_phase
def test(files: tuple[str, ...], phase: str | None) -> int:
    """Judge the rows under tests by the rules alone, whatever the mode.

    Loopback counts as in the host's network namespace, with listeners of others; a name as if it
    resolved to an ordinary address outside. Exits with 1 if a row fails, with 2 if a policy is
    invalid.
    """
    code = 0
    for path in files:
        loaded = _load(path)
        judged = loaded and _enter(loaded, phase)
        if judged is None:
            code = failures.EXIT_USAGE
            continue
        failed = list(_failures(judged))
        for failure in failed:
            _say(failure, "red", err=True)
        if failed:
            code = max(code, EXIT_FINDING)
        passed = len(judged.tests) - len(failed)
        where = f" in phase {judged.phase}" if judged.phase else ""
        _say(f"{path}: {passed} of {len(judged.tests)} tests passed{where}", "")
    return code


def _failures(loaded: Policy) -> Iterator[str]:
    for row in loaded.tests:
        decision = _judge(loaded, row)
        if decision.verdict is not row.expect:
            yield (
                f"{row.where}: {describe_destination(row.remote)}: expected {row.expect.value}, "
                f"got {decision.verdict.value} ({cause(decision)})"
            )


def _judge(loaded: Policy, row: PolicyTest) -> Decision:
    remote = row.remote
    if isinstance(remote, NamedEndpoint):
        return evaluate_name(loaded, remote.name, remote.protocol, remote.port)
    return evaluate(
        loaded,
        direction=Direction.OUT,
        remote=remote,
        loopback=loopback_scope(loaded, own_netns=False),
    )


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
@_in_phase
def explain(
    path: str, dest: str, direction: str, local_port: int, style: str, phase: str | None
) -> int:
    """Say which rule decides about DEST.

    DEST is ADDRESS:PORT or NAME:PORT (TCP), udp/ADDRESS:PORT, [IPV6]:PORT, icmp/ADDRESS or
    ip/PROTOCOL/ADDRESS. A name counts as if it resolved to an ordinary address outside. Exits
    with 1 if it is denied.
    """
    try:
        remote = parse_target(dest)
    except ValueError as err:
        raise click.BadParameter(str(err), param_hint="DEST") from err
    towards = Direction(direction)
    if towards is Direction.IN and isinstance(remote, NamedEndpoint):
        raise click.BadParameter(f"expected an address, got {dest!r}", param_hint="DEST")
    loaded = _load(path)
    judged = loaded and _enter(loaded, phase)
    if judged is None:
        return failures.EXIT_USAGE
    found = Explanation.of(judged, remote, towards, local_port)
    if style == "json":
        click.echo(json.dumps(as_json(found)))
    else:
        first, *rest = as_lines(found)
        _say(first, _COLOURS[found.decision.verdict])
        for line in rest:
            _say(line, "")
    return EXIT_FINDING if found.decision.verdict is Verdict.DENY else 0


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


def _enter(loaded: Policy, phase: str | None) -> Policy | None:
    """Return *loaded* in *phase*; or None, with what is wrong on stderr."""
    try:
        return in_phase(loaded, phase)
    except PhaseError as err:
        failures.report(err)
        return None


def _say(text: str, style: str, *, err: bool = False) -> None:
    # A console of its own each time: the stream may have been replaced since the last one.
    console = Console(stderr=err, highlight=False, soft_wrap=True)
    console.print(Text(printable(text), style=style))
