# SPDX-License-Identifier: Apache-2.0
"""A session: what the kernel reports reaches the sinks, whatever goes wrong meanwhile."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rig.process import wait_until
from rig.sights import excerpt, matched

from agentwall.daemon import response, session
from agentwall.daemon.config import ResponseSettings
from agentwall.daemon.inspection import plan_search
from agentwall.daemon.plan import judge_coverage, plan_launch, policy_in_force
from agentwall.daemon.session import Session, Subject
from agentwall.errors import HostError
from agentwall.flow.record import DetectionRecord, FlowRecord, Record, Sandbox, StateRecord
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Hook, Verdict
from agentwall.host.launch import prepare
from agentwall.host.signals import SignalQueue
from agentwall.host.sock_diag import SockDiag
from agentwall.kernel.learned import BOUND, BOUND_KEY
from agentwall.policy.compile import compile_policy

pytestmark = pytest.mark.kernel

STORM = (
    "exec python3 -c 'import socket\n"
    'for port in range({count}): socket.socket().connect_ex(("192.0.2.1", port + 1))\''
)


@dataclass
class Memory:
    """A sink that keeps everything."""

    records: list[Record] = field(default_factory=list)

    def write(self, record: Record) -> None:
        self.records.append(record)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to close."""

    def states(self) -> list[str]:
        return [each.state for each in self.records if isinstance(each, StateRecord)]

    def denials(self) -> list[FlowRecord]:
        return [
            each
            for each in self.records
            if isinstance(each, FlowRecord) and each.verdict is Verdict.DENY
        ]


@pytest.fixture
def run_session(make_request, make_enclosure, tmp_path):
    """A function that runs a shell script in a session; returns its ending and the records."""

    def run(
        script: str, meanwhile=lambda enclosure: None, policy: str = "version: 1\n", say=None
    ) -> tuple[object, Memory]:
        request = make_request(script, policy)
        enclosure = make_enclosure(request)
        policy = policy_in_force(request)
        memory = Memory()
        subject = Subject(
            sandbox=Sandbox(id="r", cgroup=enclosure.cgroup.path),
            policy=policy,
            tables=(tables := compile_policy(policy)),
            search=plan_search(policy, tables),
            coverage=judge_coverage(request),
            argv=request.argv,
            detail={},
        )
        signals = SignalQueue()
        try:
            settings = ResponseSettings(snapshots=tmp_path / "snapshots")
            say = say or (lambda words: None)
            made = Session(enclosure, subject, [memory], say=say, settings=settings)
            sandboxed = prepare(plan_launch(request, ()), enclosure.cgroup, signals)
            made.begin()
            meanwhile(enclosure)
            return made.run(sandboxed, signals), memory
        finally:
            signals.close()

    return run


def test_order(run_session):
    """Start and rules come first, the end comes last."""
    ending, memory = run_session("exit 9")

    assert memory.states() == ["started", "rules-applied", "finished"]
    assert (ending.exit_code, ending.worst, ending.left_behind) == (9, Severity.INFO, ())


def test_nothing_is_lost_at_the_end(run_session):
    """Denials of a command's last moment are in the log: each of 3000, in order."""
    _, memory = run_session(STORM.format(count=3000))

    assert [each.remote.port for each in memory.denials()] == list(range(1, 3001))
    assert memory.records[-1].detail["denied"] == 3000


def test_damage(run_session):
    """A hook that is detached meanwhile is told of, once, and is the worst that can be."""

    def detach(enclosure) -> None:
        enclosure.wall.links(enclosure.key)[0].detach()

    ending, memory = run_session("sleep 0.1", detach)

    assert memory.states().count("damaged") == 1
    assert ending.worst is Severity.CRITICAL


def test_what_is_over_is_cleared(run_session):
    """While the command runs, addresses that were learned and are over are removed."""
    found = []

    def learn(enclosure) -> None:
        bound = enclosure.wall.maps()["aw_bound"]
        bound.update(BOUND_KEY.pack(enclosure.key, bytes(16)), BOUND.pack(1, 1, *[0] * 14))
        found.append(bound)

    _, memory = run_session("sleep 0.1", learn)

    assert found[0].entries() == []
    assert memory.states()[-1] == "finished"


def test_what_is_kept_back_needs_no_news(run_session, tmp_path, monkeypatch):
    """It is told at once, though the kernel reports nothing more."""
    monkeypatch.setattr(session, "_CHECK_S", 600)
    told = tmp_path / "told"

    def hold(enclosure) -> None:
        wall, of = enclosure.wall, {"sandbox": enclosure.key, "generation": 1, "rule": None}
        later = []
        take_attempts, take_excerpts = wall.attempts, wall.excerpts

        def attempts(limit: int):
            found = take_attempts(limit)
            if hold.done:
                told.touch()
            elif found:
                hold.done = True
                found.append(matched(0, b"x", Verdict.ALLOW, hook=Hook.PLAIN, **of))
                later.append(excerpt(b"x", 0, **of))
            return found

        def excerpts():
            found = [*take_excerpts(), *later]
            later.clear()
            return found

        monkeypatch.setattr(wall, "attempts", attempts)
        monkeypatch.setattr(wall, "excerpts", excerpts)

    hold.done = False
    wait = f"for i in $(seq 600); do [ -e {told} ] && exit 3; sleep 0.1; done; exit 4"
    script = STORM.format(count=1).removeprefix("exec ") + f"\n{wait}"
    ending, _ = run_session(script, hold)

    assert ending.exit_code == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_signal_reaches_command(run_session, tmp_path, number):
    """A signal sent to agentwall reaches the command, which decides what it means."""
    ready = tmp_path / "ready"
    script = f"trap 'exit 44' {number.name[3:]}; : >{ready}; while :; do sleep 0.05; done"
    main = threading.get_ident()

    def send() -> None:
        wait_until(ready.exists, what="the command's trap")
        # To this thread alone: one that an earlier test has left would die of it, and all with it.
        signal.pthread_kill(main, number)

    sender = threading.Thread(target=send)
    ending, _ = run_session(script, lambda _: sender.start())
    sender.join()

    assert ending.exit_code == 44


def test_not_executed(run_session, make_request):
    """A command that cannot be executed has an ending like any other."""
    ending, memory = run_session("exec no-such-program")

    assert ending.exit_code == 127
    assert memory.states()[-1] == "finished"


TALK = """exec python3 -c '
import contextlib, socket
for _ in range(2):
    with socket.create_connection(("127.0.0.1", {port})) as sock:
        sock.settimeout(0.2)
        with contextlib.suppress(OSError):
            sock.sendall(b"SSH-2.0-x\\r\\n")
            sock.recv(1)
'
"""


@pytest.mark.parametrize("works", [True, False])
def test_flows_are_ended(run_session, listener, monkeypatch, works):
    """What is recognised is told of each time; that its socket cannot be ended, once."""
    if not works:

        def refuse(*_: object) -> None:
            raise HostError("no such thing")

        monkeypatch.setattr(SockDiag, "destroy", refuse)
    port = listener.getsockname()[1]
    policy = f"version: 1\nloopback: deny\nallow: [{{cidr: 127.0.0.1, ports: [{port}]}}]\n"
    ending, memory = run_session(TALK.format(port=port), policy=policy)

    found = [each for each in memory.records if isinstance(each, DetectionRecord)]
    hanging = [e for e in memory.records if getattr(e, "state", "") == "flow-left-hanging"]
    assert [(each.finding.dialect, each.verdict) for each in found] == [("ssh", Verdict.DENY)] * 2
    assert [each.detail["why"] for each in hanging] == ([] if works else ["no such thing"])
    assert ending.worst is Severity.HIGH


STOPPING = (
    "version: 1\nloopback: deny\ndetect: {{tunnel: {response}}}\n"
    "allow: [{{cidr: 127.0.0.1, ports: [{port}]}}]\n"
)


def _responses(memory: Memory) -> list[dict[str, object]]:
    return [
        dict(each.detail) for each in memory.records if getattr(each, "state", "") == "response"
    ]


def test_kill(run_session, listener):
    """Under kill the first message that is recognised ends the command, background and all."""
    port = listener.getsockname()[1]
    script = "sleep 600 & " + TALK.format(port=port).removeprefix("exec ") + "exec sleep 600"
    ending, memory = run_session(script, policy=STOPPING.format(response="kill", port=port))

    # The command may have got to its second message before it was ended for the first.
    responses = _responses(memory)
    assert 1 <= len(responses) <= 2
    assert {each["response"] for each in responses} == {"kill"}
    assert responses[-1]["problem"] in (None, "not all of its processes are gone yet")
    assert ending.exit_code == 137
    assert memory.states()[-1] == "finished"


def test_freeze(run_session, listener, monkeypatch):
    """Under freeze the command stands still, and goes on when somebody does what is said."""
    monkeypatch.setattr(response, "PATIENCE_S", 60.0)
    port = listener.getsockname()[1]
    said = []

    def thaw(words: str) -> None:
        said.append(words)
        command = words.partition("go on: ")[2]
        subprocess.Popen(["sh", "-c", f"sleep 0.5; {command}"]).wait()

    begun_s = time.monotonic()
    ending, memory = run_session(
        TALK.format(port=port).removeprefix("exec ") + "exit 5",
        policy=STOPPING.format(response="freeze", port=port),
        say=thaw,
    )

    [done] = _responses(memory)
    assert (done["response"], done["problem"]) == ("freeze", None)
    assert len(said) == 1
    assert said[0].startswith("the command is frozen, for whoever looks into it; to let it go on: ")
    assert time.monotonic() - begun_s > 0.5
    assert ending.exit_code == 5
    assert Path(str(done["snapshot"])).stat().st_mode & 0o777 == 0o600
