# SPDX-License-Identifier: Apache-2.0
"""The client against a real server: what it sends, what it returns, and how it fails."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest
from rig.cli import environment
from rig.control import serving
from rig.process import wait_until
from rig.scratch import scratch

from agentwall.client import (
    Busy,
    Client,
    Denials,
    Failed,
    Invalid,
    NotFound,
    NotRunning,
    Refused,
    TimedOut,
)
from agentwall.daemon.connections import Deferred
from agentwall.errors import AgentwallError, ControlCode, ControlError

NOTHING = {
    "denied": 0,
    "would_denied": 0,
    "lost": 0,
    "complete": True,
    "denials": [],
    "detections": [],
}


@pytest.fixture
def served(tmp_path):
    """A server that answers every request with an empty result, lists and denials apart."""

    def handle(_caller, name, _arguments):
        return {"sandbox-list": {"sandboxes": [{"id": "a"}]}, "denials": NOTHING}.get(name, {})

    with serving(tmp_path / "c.sock", handle) as served:
        yield served


@pytest.mark.parametrize(
    ("call", "name", "arguments"),
    [
        (lambda wall: wall.status(), "status", {}),
        (lambda wall: wall.sandboxes(), "sandbox-list", {}),
        (lambda wall: wall.sandbox("x"), "sandbox-show", {"sandbox": "x"}),
        (
            lambda wall: wall.label("x", {"a.b/c": "1", "gone": None}, step="3"),
            "sandbox-label",
            {"sandbox": "x", "labels": {"a.b/c": "1", "gone": None, "step": "3"}},
        ),
        (
            lambda wall: wall.label("x", sandbox="y", self="z"),
            "sandbox-label",
            {"sandbox": "x", "labels": {"sandbox": "y", "self": "z"}},
        ),
        (
            lambda wall: wall.phase("x", "agent"),
            "sandbox-label",
            {"sandbox": "x", "labels": {"phase": "agent"}},
        ),
        (
            lambda wall: wall.mode(None, "audit", for_s=60, reason="r"),
            "sandbox-mode",
            {"sandbox": None, "mode": "audit", "for_s": 60, "reason": "r"},
        ),
        (
            lambda wall: wall.end_mode("x", reason="r"),
            "sandbox-mode",
            {"sandbox": "x", "mode": None, "reason": "r"},
        ),
        (
            lambda wall: wall.denials("x", episode="17"),
            "denials",
            {"sandbox": "x", "labels": {"episode": "17"}},
        ),
        (
            lambda wall: wall.admit(pid=7, container="c", labels={"a": "b"}),
            "admit",
            {"pid": 7, "container": "c", "bundle": None, "labels": {"a": "b"}, "policy": None},
        ),
        (lambda wall: wall.release("x"), "release", {"sandbox": "x"}),
        (lambda wall: wall.reload(wait=False), "reload", {"wait": False}),
        (lambda wall: wall.stop(), "stop", {"keep": True}),
        (lambda wall: wall.detach(), "detach", {}),
    ],
)
def test_requests(served, call, name, arguments):
    """Each method makes its request, and returns what came."""
    with Client(served.path) as wall:
        answer = call(wall)

    assert [(each, found) for _, each, found in served.calls] == [(name, arguments)]
    assert answer == {"sandbox-list": [{"id": "a"}], "denials": _nothing()}.get(name, {})


def _nothing(**change):
    return Denials(**{**NOTHING, "denials": (), "detections": (), **change})


ROW = {"rule": "p:deny[0]", "reason": "rule", "count": 1}


@pytest.mark.parametrize(
    ("denials", "is_denied", "is_clean", "rules"),
    [
        (_nothing(), False, True, ()),
        (_nothing(denied=1, denials=(ROW, ROW)), True, False, ("p:deny[0]",)),
        (
            _nothing(would_denied=2, denials=({"rule": None, "reason": "no-rule"}, ROW)),
            True,
            False,
            ("no-rule", "p:deny[0]"),
        ),
        (_nothing(lost=1), False, False, ()),
        (_nothing(complete=False), False, False, ()),
        (_nothing(detections=({"verdict": "allow"},)), False, False, ()),
        (_nothing(detections=({"verdict": "deny"},)), True, False, ()),
    ],
)
def test_denials(denials, is_denied, is_clean, rules):
    """A harness asks whether anything was denied, by which rule, and whether that is all."""
    assert bool(denials) is is_denied
    assert denials.is_clean is is_clean
    assert denials.rules() == rules


@pytest.mark.parametrize(
    "answer",
    [{}, {**NOTHING, "denied": "0"}, {**NOTHING, "denials": {}}, {**NOTHING, "lost": None}],
)
def test_denials_that_say_too_little(tmp_path, answer):
    """An answer without its numbers is no clean episode."""
    with serving(tmp_path / "c.sock", lambda *_: answer) as served, Client(served.path) as wall:
        with pytest.raises(Failed, match="answer: "):
            wall.denials("x")
        assert wall.status() == answer


def test_denials_that_do_not_say_whether_they_are_complete(tmp_path):
    """Silence is not completeness."""
    answer = {key: value for key, value in NOTHING.items() if key != "complete"}
    with serving(tmp_path / "c.sock", lambda *_: answer) as served, Client(served.path) as wall:
        assert not wall.denials("x").is_clean


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (ControlCode.NOT_FOUND, NotFound),
        (ControlCode.NOT_PERMITTED, Refused),
        (ControlCode.INVALID, Invalid),
        (ControlCode.FAILED, Failed),
        (ControlCode.BUSY, Busy),
    ],
)
def test_errors(tmp_path, code, cls):
    """Each code has its class, and the words are the daemon's; the connection goes on."""

    def handle(_caller, name, _arguments):
        if name == "release":
            raise ControlError(code, "because")
        return {}

    with serving(tmp_path / "c.sock", handle) as served, Client(served.path) as wall:
        with pytest.raises(cls, match=r"^because$") as caught:
            wall.release("x")
        assert caught.value.code is code
        assert wall.status() == {}
        assert len(served.server.filenos()) == 2


def test_not_running(tmp_path):
    """No socket, and a socket that nobody serves."""
    with pytest.raises(NotRunning, match=r"no such file or directory: is the daemon running\?"):
        Client(tmp_path / "c.sock").status()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "c.sock"))
    with pytest.raises(NotRunning, match="connection refused"), Client(tmp_path / "c.sock"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
def test_no_permission():
    """Where the socket's file is not for us, the error says for whom it is."""
    script = (
        "import os, sys; from agentwall.client import Client, Refused\n"
        "os.setgroups([]); os.setgid(61000); os.setuid(61000)\n"
        "try:\n    Client(sys.argv[1]).status()\n"
        "except Refused as err:\n    print(err)"
    )
    # Not below pytest's own directory: each run of it that begins closes that to others.
    with scratch("client") as directory, serving(directory / "c.sock") as served:
        done = subprocess.run(
            [sys.executable, "-c", script, str(served.path)],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )

    assert done.stdout == (
        f"{served.path}: permission denied: for root, control.readers and control.operators only\n"
    )


def test_no_answer(tmp_path):
    """A time-out is an error of its own, and the late answer is nobody else's."""
    deferred = []

    def handle(_caller, name, _arguments):
        if name != "reload":
            return {"request": name}
        deferred.append(Deferred())
        return deferred[-1]

    with serving(tmp_path / "c.sock", handle) as served, Client(served.path) as wall:
        # Long enough for it to be sent, on a busy machine too.
        with pytest.raises(TimedOut, match=r"no answer to reload within 1 s"):
            wall.request("reload", {"wait": True}, 1.0)
        wait_until(lambda: deferred, what="the request at the server")
        served.in_loop(lambda: deferred[0].complete({"late": True}))

        assert wall.status() == {"request": "status"}


def test_full_queue(tmp_path):
    """Where nobody takes connections, it waits its time and no longer."""
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as first:
        stuck.bind(str(path))
        stuck.listen(0)
        first.connect(str(path))
        with pytest.raises(TimedOut, match="does not take connections"):
            Client(path, timeout_s=0.2).status()


def test_daemon_that_was_replaced(tmp_path):
    """The next request goes to the new daemon, by itself."""
    wall = Client(tmp_path / "c.sock")
    for n in range(2):
        with serving(tmp_path / "c.sock", lambda *_, n=n: {"n": n}):
            assert wall.admit(pid=7) == {"n": n}
    with pytest.raises(NotRunning):
        wall.status()
    wall.close()


@pytest.mark.parametrize(("name", "is_repeated"), [("status", True), ("admit", False)])
def test_daemon_that_leaves_during_a_request(tmp_path, name, is_repeated):
    """What may have been done is not done again; what changes nothing by it is asked again."""
    answers = [b'{"schema":"agentwall.control/1","ok":true,"result":{}}\n', None, None]
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(tmp_path / "c.sock"))
        daemon.listen()
        asked = []

        def serve():
            for _ in range(2 if is_repeated else 1):
                accepted, _ = daemon.accept()
                with accepted:
                    while data := accepted.recv(9999):
                        asked.append(data)
                        answer = answers[len(asked) - 1]
                        if answer is None:
                            break
                        accepted.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with Client(tmp_path / "c.sock") as wall:
            wall.status()
            with pytest.raises(NotRunning, match="the daemon left without an answer"):
                wall.request(name)

    assert len(asked) == (3 if is_repeated else 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"garbage\n", "answer: expected JSON"),
        (b"[]\n", "answer: expected schema agentwall.control/1"),
        (b'{"schema":"agentwall.control/2","ok":true,"result":{}}\n', "answer: expected schema"),
        (b'{"schema":"agentwall.control/1","ok":true}\n', "answer: expected a result or an error"),
        (b'{"schema":"agentwall.control/1","ok":false,"error":{"code":[],"message":1}}\n', "1"),
        (b"x" * ((8 << 20) + 1), "an answer without an end"),
    ],
)
def test_answer_that_is_none(tmp_path, answer, message):
    """Whoever answers nonsense is not believed."""
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(tmp_path / "c.sock"))
        daemon.listen()

        def serve():
            accepted, _ = daemon.accept()
            with accepted:
                accepted.recv(9999)
                accepted.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(Failed, match=message), Client(tmp_path / "c.sock") as wall:
            wall.status()


@pytest.mark.parametrize("value", [object(), float("nan"), "x" * (1 << 20)])
def test_request_that_cannot_be_made(served, value):
    """What is no JSON, or too long, is not sent."""
    with Client(served.path) as wall:
        with pytest.raises(Invalid, match="sandbox-label: "):
            wall.label("x", a=value)
        assert wall.status() == {}
    assert len(served.calls) == 1


def test_threads(served):
    """Several threads may use one client: each gets the answer to its own request."""
    wrong = []
    with Client(served.path) as wall:

        def ask(name, expected):
            for _ in range(50):
                if getattr(wall, name)() != expected:
                    wrong.append(name)

        threads = [
            threading.Thread(target=ask, args=each)
            for each in [("status", {}), ("sandboxes", [{"id": "a"}])] * 3
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert wrong == []
    assert len(served.calls) == 300


def test_fork(served):
    """A child of fork() has a connection of its own, and the parent keeps its one."""
    with Client(served.path) as wall:
        wall.status()
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if wall.sandboxes() == [{"id": "a"}] else 1)
            except AgentwallError:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert wall.status() == {}

    pids = [caller.pid for caller, _, _ in served.calls]
    assert pids == [os.getpid(), pid, os.getpid()]


def test_imports_only_the_standard_library():
    """A harness pays for nothing else."""
    code = "import sys; import agentwall.client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    ours = {name for name in done.stdout.split() if name.startswith("agentwall")}

    assert ours == {"agentwall", "agentwall.client", "agentwall.errors"}
    assert not {"numpy", "pydantic", "yaml", "rich", "click"} & set(done.stdout.split())
