# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` without its command line: a request in, an outcome out.

Everything that can be refused is refused before the command starts; from then on only the
command decides how it ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agentwall.daemon.config import TlsSettings
from agentwall.daemon.describe_tls import tls_notice
from agentwall.daemon.enclosure import Blueprint, Enclosure
from agentwall.daemon.inside import Inside
from agentwall.daemon.inside_state import TlsUse
from agentwall.daemon.outputs import EventFile, ReportFile, open_events
from agentwall.daemon.plan import (
    RunRequest,
    judge_coverage,
    new_run_id,
    plan_enclosure,
    plan_launch,
    policy_in_force,
)
from agentwall.daemon.provision import Provision
from agentwall.daemon.session import Ending, Session, Subject
from agentwall.errors import AgentwallError, HostError, ProbesRefusedError
from agentwall.flow.record import Sandbox, SandboxKey
from agentwall.host.cgroup import path_of
from agentwall.host.coverage import Coverage
from agentwall.host.launch import Sandboxed, prepare
from agentwall.host.signals import SignalQueue
from agentwall.host.warden import Launch
from agentwall.probes.command import Command
from agentwall.sinks.console import Console
from agentwall.sinks.jsonl import EventLog, Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a run."""

    ending: Ending
    coverage: Coverage
    events: Path
    events_failed: int
    """Events that could not be written."""
    problems: tuple[str, ...]
    """What went wrong once the command had started; none of it changed what it could do."""


def run_sandbox(request: RunRequest, console: Console) -> Outcome:
    """Run a command behind a wall until it ends.

    Args:
        request: What to run.
        console: Gets every record beside the event file, and hears of hooks that are missing; the
            caller closes it.

    Raises:
        HostError: Not root, no cgroup v2, a namespace refused, coverage not as required, ...
        PolicyError: A signature is malformed, or they need too many states.
        BudgetError: Signatures have too many dialects.
        KernelError: A program was refused, or the rules do not fit.
    """
    if os.geteuid() != 0:
        raise HostError("expected root, to load programs and make a cgroup: use sudo")
    expected = judge_coverage(request)
    run_id = new_run_id()
    with _outputs(request, run_id) as (events, report):
        blueprint = plan_enclosure(run_id, request, events.path)
        written = (events.path, report.path) if report else (events.path,)
        log = EventLog(events.descriptor, run_id)
        subject = _subject(run_id, request, blueprint, expected)
        run = _Run(request, blueprint, plan_launch(request, written), subject)
        ending, coverage, problems = _enclose(run, console, log)
        log.close()
        if report:
            problems += _problems_of(report.write)
    return Outcome(
        ending=ending,
        coverage=coverage,
        events=events.path,
        events_failed=log.failed,
        problems=tuple(problems),
    )


@contextlib.contextmanager
def _outputs(request: RunRequest, run_id: str) -> Iterator[tuple[EventFile, ReportFile | None]]:
    events = open_events(request.events, run_id, request.identity.gid)
    try:
        report = None
        if request.report is not None:
            report = ReportFile(request.report, events, request.identity.gid)
        yield events, report
    except BaseException:
        # A run that never began leaves no file; one that did has written its start.
        if events.path.is_file() and not events.path.stat().st_size:
            events.path.unlink()
        raise


def _subject(run_id: str, request: RunRequest, blueprint: Blueprint, coverage: Coverage) -> Subject:
    return Subject(
        sandbox=Sandbox(id=run_id, cgroup=blueprint.place.path, labels=request.labels),
        policy=policy_in_force(request),
        tables=blueprint.tables,
        search=blueprint.search,
        coverage=coverage,
        argv=request.argv,
        detail={
            "uid": request.identity.uid,
            "gid": request.identity.gid,
            "loopback": blueprint.settings.loopback.value,
            "signatures": {
                "digest": blueprint.search.signatures.digest,
                "count": len(blueprint.search.signatures.signatures),
            },
            "descriptors": {str(found.number): found.what for found in request.inherited},
        },
    )


@dataclass(frozen=True, slots=True)
class _Run:
    request: RunRequest
    blueprint: Blueprint
    launch: Launch
    subject: Subject


def _enclose(run: _Run, console: Console, log: Sink) -> tuple[Ending, Coverage, list[str]]:
    """Build the enclosure, run the command in it, and take it away again."""
    # Blocked before anything is made: a signal must not end agentwall half way through.
    with contextlib.closing(SignalQueue()) as signals, _begun_early(run) as provision:
        enclosure = Enclosure(run.blueprint)
        try:
            subject = _degraded(run, enclosure.missing_hooks(), console)
            with _reading_inside(run, enclosure, provision) as inside:
                subject = _told(inside, subject, console)
                sandboxed = prepare(run.launch, enclosure.cgroup, signals)
                inside.admit(enclosure.key, [sandboxed.pid])
                inside.prepare(enclosure.key, sandboxed.pid, _command(run.launch))
                session = Session(
                    enclosure, subject, [log, console], say=console.say, inside=inside
                )
                inside.tell = session.tell_hello
                inside.settle()
                ending = _attend(session, sandboxed, signals)
        except BaseException:
            # What is left behind on top of this error, leftovers will tell.
            _problems_of(enclosure.remove)
            raise
        return ending, subject.coverage, _problems_of(enclosure.remove)


def _degraded(run: _Run, missing: Mapping[str, str], console: Console) -> Subject:
    """Say which hooks are not in force, before the command runs, and judge the coverage again."""
    if not missing:
        return run.subject
    coverage = judge_coverage(run.request, missing)
    for name, reason in missing.items():
        console.say(f"hook not in force: {name}: {reason}")
    detail = {**run.subject.detail, "missing_hooks": dict(missing)}
    return replace(run.subject, coverage=coverage, detail=detail)


def _command(launch: Launch) -> Command:
    variables = launch.environment
    return Command(
        program=launch.argv[0],
        path=variables.get("PATH", ""),
        library_path=variables.get("LD_LIBRARY_PATH", ""),
        directory=os.readlink("/proc/self/cwd"),
    )


def _tls_use(run: _Run) -> TlsUse:
    return run.request.tls if run.subject.search.table is not None else TlsUse.OFF


@contextlib.contextmanager
def _begun_early(run: _Run) -> Iterator[Provision | None]:
    """Have what is to be compiled compiled while the kernel looks at the wall's programs."""
    with Provision() as provision:
        is_begun = False
        if _tls_use(run) is not TlsUse.OFF:
            # What is refused now will be tried again, and said.
            with contextlib.suppress(ProbesRefusedError):
                provision.start()
                is_begun = True
        yield provision if is_begun else None


@contextlib.contextmanager
def _reading_inside(
    run: _Run, enclosure: Enclosure, provision: Provision | None
) -> Iterator[Inside]:
    """Read inside TLS, where the policy looks for anything.

    Raises:
        ProbesRefusedError: This host does not let it, and the request requires it.
    """
    path = enclosure.cgroup.path

    def sandbox_of(pid: int) -> SandboxKey | None:
        return enclosure.key if f"{path_of(pid)}/".startswith(f"{path}/") else None

    inside = Inside(
        enclosure.wall,
        enclosure.pin_dir,
        TlsSettings(inspect=_tls_use(run)),
        sandbox_of=sandbox_of,
        why_off="--tls off" if run.request.tls is TlsUse.OFF else "nothing is looked for",
        provision=provision,
    )
    try:
        inside.start()
        inside.wait()
        inside.require()
        yield inside
    finally:
        inside.close(keep=False)


def _told(inside: Inside, subject: Subject, console: Console) -> Subject:
    """Say, before the command runs, that nothing is read inside TLS where it would be looked at."""
    state = inside.state()
    notice = tls_notice(state)
    if notice is not None:
        console.say(notice)
    detail = {**subject.detail, "tls": {"state": state.state, "reason": state.reason}}
    return replace(subject, detail=detail)


def _attend(session: Session, sandboxed: Sandboxed, signals: SignalQueue) -> Ending:
    try:
        session.begin()
        return session.run(sandboxed, signals)
    finally:
        sandboxed.end()


def _problems_of(action: Callable[[], None]) -> list[str]:
    """Do something that can no longer change how the command ends; return what went wrong."""
    try:
        action()
    except AgentwallError as err:
        return [str(err)]
    return []
