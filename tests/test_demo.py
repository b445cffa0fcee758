# SPDX-License-Identifier: Apache-2.0
"""The demo passes where the wall stands, and fails where it does not."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from demo.act import Act, Arrival, play
from demo.attempts import API_NAME, API_PATH, ATTEMPTS
from demo.checks import judge_audit, judge_control, judge_enforce, judge_report
from demo.stage import set_stage
from rig.cgroup import own_cgroup
from rig.namespace import NETNS_DIRECTORY
from rig.packet import Packet

TESTS = Path(__file__).parent
NOTHING = Arrival(packets=0, payload=b"", targets=0, heard=b"", visitors=0)
STRAY = Packet(raw=b"x", ether_type=0x0800, destination="198.51.100.1", protocol=6)


def event(attempt, target, verdict):
    """One line of the event log, as far as checks read it."""
    remote = {"address": target[0], "port": target[1]}
    return {
        "kind": "flow",
        "direction": "out",
        "protocol": attempt.protocol,
        "verdict": verdict,
        "remote": remote if attempt.socket_type is None else None,
        "reason": {"code": "no-rule" if attempt.socket_type is None else "socket-type"},
        "socket_type": attempt.socket_type or 1,
    }


def make_act(mode, verdict, arrival, outcome):
    """An act in which all went as it should."""
    return Act(
        mode=mode,
        exit_code=0,
        messages="",
        claims={attempt.id: (outcome, "") for attempt in ATTEMPTS} | {"fetch": ("done", "")},
        arrivals={attempt.id: arrival(attempt) for attempt in ATTEMPTS},
        strays=[],
        requests=[f"192.0.2.2 TLSv1.3 {API_NAME} GET {API_PATH} 200 95"],
        questions=[("A", API_NAME, "192.0.2.2")],
        events=[event(a, target, verdict) for a in ATTEMPTS for target in a.targets],
        events_file=Path("events.jsonl"),
    )


def all_of(attempt):
    return Arrival(
        packets=9, payload=attempt.proof, targets=len(attempt.targets), heard=b"", visitors=1
    )


AUDIT = make_act("audit", "would-deny", all_of, "done")
ENFORCE = make_act("enforce", "deny", lambda _: NOTHING, "EPERM")


def failures(checks):
    return [check.title for check in checks if not check.passed]


def test_a_day_as_it_should_be_passes():
    """Every check passes on acts in which all went well."""
    assert failures(judge_audit(AUDIT)) == []
    assert failures(judge_enforce(ENFORCE)) == []


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.id)
@pytest.mark.parametrize(
    "change",
    [{"targets": 0}, {"payload": b"something else"}],
    ids=["not reached", "without the data"],
)
def test_audit_fails_when_an_attempt_does_not_arrive(attempt, change):
    """An attempt that did not reach all its targets, or brought nothing along, is a failure."""
    arrival = dataclasses.replace(AUDIT.arrivals[attempt.id], **change)
    act = dataclasses.replace(AUDIT, arrivals=AUDIT.arrivals | {attempt.id: arrival})

    assert failures(judge_audit(act)) == [attempt.title]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.id)
@pytest.mark.parametrize(
    "change",
    [{"packets": 1}, {"heard": b"x"}, {"visitors": 1}],
    ids=["a packet", "a byte", "a connection"],
)
def test_enforce_fails_when_anything_arrives(attempt, change):
    """One packet on the wire, one byte or one connection at the service is a failure."""
    arrivals = ENFORCE.arrivals | {attempt.id: dataclasses.replace(NOTHING, **change)}

    assert failures(judge_enforce(dataclasses.replace(ENFORCE, arrivals=arrivals))) == [
        attempt.title
    ]


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.id)
def test_a_missing_event_fails(attempt):
    """An attempt of which one target is not in the log is a failure, in both modes."""
    lost = event(attempt, attempt.targets[-1], "would-deny")
    audit = dataclasses.replace(AUDIT, events=[e for e in AUDIT.events if e != lost])
    refused = event(attempt, attempt.targets[-1], "deny")
    enforce = dataclasses.replace(ENFORCE, events=[e for e in ENFORCE.events if e != refused])

    assert failures(judge_audit(audit)) == [attempt.title]
    # Where the capability is missing, the kernel refuses before there is anything to log.
    assert failures(judge_enforce(enforce)) == ([] if attempt.needs_net_raw else [attempt.title])


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"requests": []}, "the task: fetch from the model API"),
        ({"questions": []}, "the task: fetch from the model API"),
        ({"exit_code": 125}, "the task: fetch from the model API"),
        ({"strays": [STRAY]}, "anything else on the wire"),
    ],
)
def test_enforce_fails_on_broken_work_and_on_strays(change, title):
    """A task that was not done, and a packet to anywhere unexpected, are failures."""
    assert failures(judge_enforce(dataclasses.replace(ENFORCE, **change))) == [title]


@pytest.mark.parametrize(
    ("code", "report", "passed"),
    [
        (1, {"denials": [{}], "gaps": [], "errors": []}, True),
        (0, {"denials": [{}], "gaps": [], "errors": []}, False),
        (1, {"denials": [], "gaps": [], "errors": []}, False),
        (1, {"denials": [{}], "gaps": [{}], "errors": []}, False),
        (1, {"denials": [{}], "gaps": [], "errors": ["cut"]}, False),
        (1, {}, False),
    ],
)
def test_report_must_be_whole_and_hold_denials(code, report, passed):
    """A report without denials, with holes, or with another exit code is a failure."""
    assert judge_report("audit", code, report).passed is passed


def test_silent_far_side_fails():
    """A far side of which one service is dead proves nothing."""
    assert judge_control(9, 9).passed
    assert not judge_control(8, 9).passed


@pytest.mark.kernel
@pytest.mark.slow
def test_demo_passes(tmp_path):
    """The whole demo, as make runs it, passes and leaves no namespace, cgroup or file behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "demo"],
        env=os.environ | {"PYTHONPATH": str(TESTS), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        out, err = demo.communicate(timeout=900)
    made = f"agentwall-test-{demo.pid}-*"

    assert demo.returncode == 0, out + err
    assert " checks, 0 failed, " in out
    assert [*tmp_path.iterdir(), *NETNS_DIRECTORY.glob(made), *own_cgroup().glob(made)] == []


@pytest.mark.kernel
@pytest.mark.slow
def test_checks_fail_without_a_wall(tmp_path):
    """The same day in observe mode, where nothing is judged, fails every check but the task's."""
    with set_stage() as stage:
        act = play(stage, "observe", tmp_path, "--keep-cap", "NET_RAW")

    titles = [attempt.title for attempt in ATTEMPTS]
    assert failures(judge_enforce(act)) == [*titles, "anything else on the wire"]
    assert failures(judge_audit(act)) == titles
