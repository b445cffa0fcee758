# SPDX-License-Identifier: Apache-2.0
"""The engine under the daemon: labels, phases, modes and responses of many sandboxes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.records import CURL, SANDBOX
from rig.sights import (
    ACCEPTS,
    ALL,
    ATTEMPT,
    ESCAPED,
    KEY,
    KILL,
    POLICY,
    SIGNATURES,
    SUBSCRIBE,
    TABLES,
    excerpt,
    matched,
)

from agentwall.engine.commands import Report, StopSandbox
from agentwall.engine.engine import Engine
from agentwall.engine.events import (
    AttemptSeen,
    ExcerptsSeen,
    HostChanged,
    Lost,
    ModeOverridden,
    RulesApplied,
    SandboxFinished,
    SandboxLabelled,
    SandboxRenamed,
    SandboxStarted,
    SandboxStopped,
    SignaturesApplied,
)
from agentwall.flow.finding import DetectionClass
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import HOST, PolicyInForce
from agentwall.flow.verdict import Mode, Verdict
from agentwall.policy.model import DETECT_DEFAULTS, Detect, Response

ORIGIN = Origin(runtime=Runtime.PODMAN, container="cd" * 32)
OFFSET_NS = 10**18
SECOND = 10**9


def applied(generation: int, **changes: object) -> RulesApplied:
    policy = replace(POLICY, **changes)  # type: ignore[arg-type]
    return RulesApplied(key=KEY, mono_ns=6, generation=generation, policy=policy, tables=TABLES)


def engine_of(response: Response = Response.BLOCK, mode: Mode = Mode.ENFORCE) -> Engine:
    engine = Engine()
    detect = Detect(responses={**DETECT_DEFAULTS, DetectionClass.MINING: response})
    for event in (
        SandboxStarted(
            key=KEY,
            sandbox=replace(SANDBOX, origin=ORIGIN),
            mono_ns=5,
            clock_offset_ns=OFFSET_NS,
            mode=mode,
            coverage="full",
        ),
        applied(3, mode=mode, detect=detect, phase="setup", commit="c0ffee"),
        SignaturesApplied(key=KEY, signatures=SIGNATURES, table=1, accepts=ACCEPTS),
    ):
        list(engine.handle(event))
    return engine


def record_of(engine: Engine, event):
    (command,) = engine.handle(event)
    return command.record


def see(engine: Engine, **changes: object):
    attempt = replace(ATTEMPT, **changes)  # type: ignore[arg-type]
    return record_of(engine, AttemptSeen(attempt=attempt, process=CURL))


def mine(engine: Engine, cookie: int = 9) -> list[object]:
    attempt = matched(ALL, SUBSCRIBE[:37] + b'"', Verdict.DENY, cookie=cookie)
    return list(engine.handle(AttemptSeen(attempt=attempt, process=CURL)))


def decode(engine: Engine, **changes: object) -> list[object]:
    event = ExcerptsSeen(excerpts=((excerpt(ESCAPED, 0, **changes), CURL),))
    return list(engine.handle(event))


def label(mono_ns: int, **labels: str) -> SandboxLabelled:
    return SandboxLabelled(key=KEY, mono_ns=mono_ns, labels=labels, by="pid 7 (uid 1000)")


def override(mono_ns: int, mode: Mode, until_ns: int | None) -> ModeOverridden:
    return ModeOverridden(
        key=KEY, mono_ns=mono_ns, mode=mode, until_mono_ns=until_ns, reason="3 a.m.", by="root"
    )


def stopped(response: Response, problem: str | None = None, **detail: object) -> SandboxStopped:
    return SandboxStopped(key=KEY, mono_ns=2000, response=response, problem=problem, detail=detail)


def test_labelled():
    """The switch is a record under the new labels, and says who and what was before."""
    engine = engine_of()
    record = record_of(engine, label(900, episode="42"))

    assert record.state == "labelled"
    assert record.sandbox.labels == {"episode": "42"}
    assert record.detail == {
        "labels": {"episode": "42"},
        "before": {"episode": "41", "step": "7"},
        "by": "pid 7 (uid 1000)",
    }


def test_late_events_keep_their_labels():
    """What the kernel saw before the switch is told of under the labels of that time."""
    engine = engine_of()
    list(engine.handle(label(900, episode="42")))

    assert see(engine, mono_ns=899).sandbox.labels["episode"] == "41"
    assert see(engine, mono_ns=900).sandbox.labels == {"episode": "42"}
    assert (
        record_of(engine, Lost(key=KEY, mono_ns=899, where="x", lost=1)).sandbox.labels["episode"]
        == "41"
    )


def test_phases():
    """A phase switch is new rules that say phase and commit; events keep their generation's."""
    engine = engine_of()
    record = record_of(engine, applied(4, phase="agent", commit="c0ffee"))

    assert (record.state, record.detail["phase"], record.detail["commit"]) == (
        "rules-applied",
        "agent",
        "c0ffee",
    )
    assert record.sandbox.policy == PolicyInForce(name="p", phase="agent", commit="c0ffee")
    assert see(engine, generation=3).sandbox.policy.phase == "setup"
    assert see(engine, generation=4).sandbox.policy.phase == "agent"


def test_events_of_the_time_before_this_daemon():
    """Rules that held before are not told of again; what speaks of them is told as theirs."""
    engine = engine_of()
    former = replace(applied(2, phase="agent", commit="c0ffee"), is_former=True)
    current = applied(4, phase="setup", commit="c0ffee00")

    assert list(engine.handle(former)) == []
    assert record_of(engine, current).sandbox.policy.commit == "c0ffee00"
    assert see(engine, generation=1).sandbox.policy is None
    seen = see(engine, generation=2)
    assert seen.sandbox.policy == PolicyInForce(name="p", phase="agent", commit="c0ffee")
    assert see(engine, generation=4).sandbox.policy.phase == "setup"


def test_an_origin_that_becomes_known():
    """Nothing is logged of it by itself; what follows carries it."""
    engine = engine_of()
    web = replace(ORIGIN, name="web")

    assert list(engine.handle(SandboxRenamed(key=KEY, origin=web))) == []
    assert see(engine).sandbox.origin is web


def test_a_mode_that_is_switched():
    """The record says until when, why and by whom; the end of it has no until."""
    engine = engine_of()
    begin = record_of(engine, override(10 * SECOND, Mode.AUDIT, 1810 * SECOND))
    end = record_of(engine, override(1810 * SECOND, Mode.ENFORCE, None))

    assert begin.state == end.state == "mode"
    assert begin.detail == {
        "mode": "audit",
        "until": "2001-09-09T02:16:50Z",
        "reason": "3 a.m.",
        "by": "root",
    }
    assert (end.detail["mode"], end.detail["until"]) == ("enforce", None)


def test_a_mode_without_end():
    """A time far beyond any calendar is its last second."""
    record = record_of(engine_of(), override(0, Mode.AUDIT, 10**22))

    assert record.detail["until"] == "9999-12-31T23:59:59Z"


def test_what_decoders_find_while_the_mode_is_switched():
    """A decoder's finding is judged in the mode of its time, and in audit nothing is cut."""
    engine = engine_of()
    list(engine.handle(override(500, Mode.AUDIT, 2000)))
    (report,) = decode(engine, mono_ns=1000)
    kill, later = decode(engine, mono_ns=2000, cookie=10)

    assert report.record.verdict is Verdict.WOULD_DENY
    assert kill == replace(KILL, cookie=10)
    assert later.record.verdict is Verdict.DENY


def test_the_end_names_the_mode_in_force():
    """A sandbox that ends while its mode is switched ends in that mode."""
    engine = engine_of()
    list(engine.handle(override(500, Mode.AUDIT, 2000)))
    record = record_of(engine, SandboxFinished(key=KEY, mono_ns=1999))

    assert record.detail["mode"] == "audit"


@pytest.mark.parametrize("response", [Response.FREEZE, Response.KILL])
@pytest.mark.parametrize("find", [mine, decode])
def test_responses_to_the_whole_sandbox(response, find):
    """The flow is ended first, then the record is written, then the sandbox is stopped."""
    engine = engine_of(response)
    kill, report, stop = find(engine)

    assert kill == KILL
    assert report.record.verdict is Verdict.DENY
    assert report.record.response == response.value
    assert stop == StopSandbox(sandbox=KEY, response=response, detection=report.record)


@pytest.mark.parametrize("mode", [Mode.AUDIT, Mode.OBSERVE])
def test_no_response_outside_of_enforce(mode):
    """Neither a flow nor the sandbox is stopped in the other modes."""
    engine = engine_of(Response.KILL, mode)
    (report,) = decode(engine)
    verdict = Verdict.WOULD_DENY if mode is Mode.AUDIT else Verdict.ALLOW
    attempt = matched(ALL, SUBSCRIBE[:37] + b'"', verdict, cookie=11)
    commands = list(engine.handle(AttemptSeen(attempt=attempt, process=CURL)))

    assert report.record.verdict is verdict
    assert [type(command) for command in commands] == [Report]


def test_a_sandbox_is_stopped_once():
    """Further findings are told, and their flows cut; the order is not given again."""
    engine = engine_of(Response.FREEZE)
    first = mine(engine)
    second = mine(engine, cookie=10)
    list(engine.handle(stopped(Response.FREEZE)))
    third = mine(engine, cookie=11)

    assert [len(commands) for commands in (first, second, third)] == [3, 2, 2]


def test_what_could_not_be_done_is_tried_again():
    """A freeze that failed is ordered again, and a kill that is done may be needed again."""
    frozen, killed = engine_of(Response.FREEZE), engine_of(Response.KILL)
    mine(frozen)
    mine(killed)
    list(frozen.handle(stopped(Response.FREEZE, "more than 30 a minute")))
    list(killed.handle(stopped(Response.KILL)))

    assert isinstance(mine(frozen, cookie=10)[-1], StopSandbox)
    assert isinstance(mine(killed, cookie=10)[-1], StopSandbox)


def test_a_kill_makes_a_freeze_needless():
    """What is being killed is not frozen; what is frozen may still be killed."""
    engine = engine_of(Response.KILL)
    mine(engine)
    freeze = Detect(responses={**DETECT_DEFAULTS, DetectionClass.MINING: Response.FREEZE})
    list(engine.handle(applied(3, detect=freeze)))

    assert len(mine(engine, cookie=10)) == 2
    other = engine_of(Response.FREEZE)
    mine(other)
    kill = Detect(responses={**DETECT_DEFAULTS, DetectionClass.MINING: Response.KILL})
    list(other.handle(applied(3, detect=kill)))
    assert mine(other, cookie=10)[-1].response is Response.KILL


def test_a_response_is_recorded():
    """The record says what was done, or why not, and what was found inside."""
    engine = engine_of(Response.FREEZE)
    done = record_of(engine, stopped(Response.FREEZE, processes=3))
    failed = record_of(engine, stopped(Response.KILL, "no such cgroup"))

    assert done.state == failed.state == "response"
    assert done.detail == {"response": "freeze", "problem": None, "processes": 3}
    assert failed.detail == {"response": "kill", "problem": "no such cgroup"}


def test_the_host():
    """What the daemon says of itself stands under a name that is no sandbox."""
    event = HostChanged(
        mono_ns=7, clock_offset_ns=OFFSET_NS, state="daemon-started", detail={"pid": 1}
    )
    record = record_of(engine_of(), event)

    assert record.sandbox is HOST
    assert (record.state, record.detail) == ("daemon-started", {"pid": 1})
    assert (record.time_ns, record.mono_ns) == (OFFSET_NS + 7, 7)


def test_a_clock_that_is_set():
    """Times of all sandboxes follow a clock that jumped, and not one that was read anew."""
    engine = engine_of()
    list(engine.handle(HostChanged(mono_ns=7, clock_offset_ns=OFFSET_NS + 999, state="reloaded")))
    before = see(engine).time_ns
    list(engine.handle(HostChanged(mono_ns=8, clock_offset_ns=0, state="clock-changed")))

    assert before == OFFSET_NS + 1000
    assert see(engine).time_ns == 1000


def test_a_sandbox_nobody_started_is_labelled():
    """It is told of, and nothing is kept."""
    engine = Engine()
    record = record_of(engine, label(1, episode="1"))

    assert (record.sandbox.id, record.state) == (f"key:{KEY}", "labelled")
    assert see(engine).sandbox.labels == {}
