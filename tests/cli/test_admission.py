# SPDX-License-Identifier: Apache-2.0
"""The OCI hook: a container starts only if the daemon says that its wall stands."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.admitting import accepting, control_room, refusing
from rig.cgroup import in_cgroup, temp_cgroup
from rig.process import stop, wait_until

from agentwall.cli import admission
from agentwall.cli.admission import Failure, main, read_state

STATE = {
    "ociVersion": "1.0.2",
    "id": "c1",
    "status": "creating",
    "pid": 7,
    "bundle": "/b",
    "annotations": {"episode": "7", "io.agentwall.policy": "train"},
}


@pytest.fixture
def contained():
    """A process in a cgroup of its own, as the runtime has it."""
    with temp_cgroup("hook") as cgroup:
        child = subprocess.Popen(in_cgroup(cgroup, "sleep", "600"), start_new_session=True)
        comm = Path(f"/proc/{child.pid}/comm")
        wait_until(lambda: comm.read_text() == "sleep\n", what="a process")
        yield child
        stop(child)


@pytest.fixture
def hook(tmp_path, monkeypatch, capsys):
    """A function that runs the hook on a state; returns its exit code and what it says."""

    def run(state: object, *words: str) -> tuple[int, str]:
        raw = state if isinstance(state, bytes) else json.dumps(state).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        code = main([f"--socket={tmp_path}/c.sock", *words])
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    return run


def of(child: subprocess.Popen[bytes], **changes: object) -> dict[str, object]:
    return {**STATE, "pid": child.pid, **changes}


def test_admitted(hook, tmp_path, contained):
    """The request says who it is and what its runtime says of it; there is nothing to say."""
    with control_room(tmp_path / "c.sock") as room:
        assert hook(of(contained)) == (0, "")

    assert room.requests == [
        {
            "schema": "agentwall.control/1",
            "request": "admit",
            "pid": contained.pid,
            "container": "c1",
            "bundle": "/b",
            "labels": {"episode": "7"},
            "policy": "train",
        }
    ]


@pytest.mark.parametrize("code", ["not-permitted", "invalid", "failed", "not-found"])
def test_refused(hook, tmp_path, contained, code):
    """Whatever the daemon's reason is, the runtime hears it and fails."""
    with control_room(tmp_path / "c.sock", refusing(code, "policy 'x': none of \x1b that name")):
        result = hook(of(contained))

    assert result == (
        1,
        f"agentwall: admit: refused: policy 'x': none of \\x1b that name ({code})\n",
    )


def test_not_running(hook, contained, tmp_path):
    """Without a daemon it fails with a code of its own, whether or not the socket is left."""
    expected = f"agentwall: admit: the daemon is not running ({tmp_path}/c.sock)\n"
    assert hook(of(contained)) == (3, expected)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/c.sock")

    assert hook(of(contained)) == (3, expected)


def test_allow_unwatched(hook, contained, tmp_path):
    """On request a container starts without a daemon, and that is said; a refusal still holds."""
    assert hook(of(contained), "--allow-unwatched") == (
        0,
        "agentwall: admit: the daemon is not running: c1 starts unwatched\n",
    )
    with control_room(tmp_path / "c.sock", refusing("failed", "no")):
        assert hook(of(contained), "--allow-unwatched")[0] == 1


def test_unmatched(hook, contained, tmp_path):
    """A container that no policy is for does not start, unless that is what is wanted."""

    def answer(_: object) -> dict[str, object]:
        return {"ok": True, "result": {"sandbox": None}}

    with control_room(tmp_path / "c.sock", answer):
        assert hook(of(contained)) == (1, "agentwall: admit: no policy of the daemon is for it\n")
        assert hook(of(contained), "--allow-unmatched") == (0, "")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda _: None, "ended before it answered"),
        (lambda _: b"{}\n", "not of agentwall.control/1"),
        (lambda _: b"no\n", "not one line of JSON"),
        (lambda _: b"[" * 100_000 + b"\n", "not one line of JSON"),
        (lambda _: {"ok": True}, "neither a result nor an error"),
        (lambda _: {"ok": "yes", "result": {"sandbox": "x"}}, "neither a result nor an error"),
        (lambda _: {"ok": True, "result": {}}, "no policy of the daemon"),
    ],
)
def test_odd_answers(hook, contained, tmp_path, answer, words):
    """Only the one right answer counts as one."""
    with control_room(tmp_path / "c.sock", answer):
        code, said = hook(of(contained))

    assert code == 1
    assert words in said
    assert said.count("\n") == 1


def test_silence(hook, contained, tmp_path, monkeypatch):
    """A daemon that does not answer is not waited for without end."""
    monkeypatch.setattr(admission, "TIMEOUT_S", 0.2)
    over = threading.Event()

    def wait(_: object) -> None:
        over.wait()

    with control_room(tmp_path / "c.sock", wait):
        code, said = hook(of(contained))
        over.set()

    assert (code, said) == (1, "agentwall: admit: the daemon did not answer within 0.2 s\n")


def test_busy(hook, contained, tmp_path):
    """A daemon that is busy is asked again."""
    answers = [refusing("busy", "64 clients"), refusing("busy", "64 clients"), accepting]
    with control_room(tmp_path / "c.sock", lambda request: answers.pop(0)(request)) as room:
        assert hook(of(contained)) == (0, "")

    assert len(room.requests) == 3


def test_moved(hook, contained, tmp_path):
    """A process that is in another cgroup after the answer is not behind the wall."""
    with temp_cgroup("elsewhere") as elsewhere:

        def answer(request: dict[str, object]) -> dict[str, object]:
            (elsewhere / "cgroup.procs").write_text(str(contained.pid))
            return accepting(request)

        with control_room(tmp_path / "c.sock", answer):
            result = hook(of(contained))

    expected = f"agentwall: admit: process {contained.pid} is no longer where it was\n"
    assert result == (1, expected)


def test_ended(hook, contained, tmp_path):
    """Nor is one that ended meanwhile."""

    def answer(request: dict[str, object]) -> dict[str, object]:
        contained.kill()
        contained.wait()
        return accepting(request)

    with control_room(tmp_path / "c.sock", answer):
        code, said = hook(of(contained))

    assert code == 1
    assert "there is none" in said


def test_root_cgroup(hook, tmp_path):
    """A process in the root cgroup is nobody's sandbox, and the daemon is not even asked."""
    with open("/proc/self/cgroup") as file:
        if file.read().splitlines()[-1] != "0::/":
            pytest.skip("the tests do not run in the root cgroup")
    with control_room(tmp_path / "c.sock") as room:
        code, said = hook({**STATE, "pid": os.getpid()})

    assert (code, room.requests) == (1, [])
    assert "expected a cgroup below the root, got '/'" in said


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (b"", "expected the JSON"),
        (b"[" * 100_000, "expected the JSON"),
        (b"{}", "ociVersion"),
        (b"[]", "ociVersion"),
        (b" " * (2 << 20), "at most 1048576 bytes"),
        ({**STATE, "id": ""}, "id: expected 1 to 256"),
        ({**STATE, "id": "x" * 257}, "id: expected 1 to 256"),
        ({**STATE, "pid": 0}, "pid: expected the container's process, got 0"),
        ({**STATE, "pid": "7"}, "pid: expected the container's process, got '7'"),
        ({**STATE, "pid": 1 << 40}, "pid: expected"),
        ({**STATE, "bundle": 7}, "a bundle's path"),
        ({**STATE, "annotations": ["x"]}, "a map of annotations"),
        ({**STATE, "annotations": {"io.agentwall.policy": 7}}, "io.agentwall.policy: expected a"),
    ],
)
def test_odd_states(hook, state, words):
    """What is no state is wrong usage, said in one line."""
    code, said = hook(state)

    assert code == 2
    assert words in said
    assert said.count("\n") == 1


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_any_state(value):
    """Nothing else than a Failure comes of what a runtime says."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(Failure):
        read_state(raw)


def test_bounded_labels():
    """Annotations that cannot be labels are left out, and the others are kept."""
    odd = {"long": "x" * 10_000, "number": 7, "none": None, "half": "\ud800", "lines": "a\nb"}
    many = {f"k{number}": "v" for number in range(200)}
    wanted = read_state(json.dumps({**STATE, "annotations": {**odd, **many}}).encode())

    assert len(wanted.labels) == 128
    assert wanted.labels.items() <= many.items()
    assert wanted.policy is None


def test_bounded_in_all():
    """All labels together are what a daemon takes, whatever the number of long ones."""
    annotations = {f"k{number}": "v" * 4000 for number in range(100)}
    wanted = read_state(json.dumps({**STATE, "annotations": annotations}).encode())

    assert len(wanted.labels) == 32


@pytest.mark.parametrize("annotations", [None, {}])
def test_no_annotations(annotations):
    """There need not be any."""
    wanted = read_state(json.dumps({**STATE, "annotations": annotations}).encode())

    assert (wanted.labels, wanted.policy) == ({}, None)


@pytest.mark.parametrize("pid", [0, 7])
def test_release(hook, tmp_path, pid):
    """As poststop hook it names the container, whose process has gone."""
    with control_room(tmp_path / "c.sock") as room:
        assert hook({**STATE, "pid": pid, "status": "stopped"}, "--release") == (0, "")

    [request] = room.requests
    assert (request["request"], request["sandbox"]) == ("release", "c1")


@pytest.mark.parametrize(("code", "expected"), [("not-found", 0), ("failed", 1)])
def test_released_before(hook, tmp_path, code, expected):
    """What the daemon has released by itself is no error."""
    with control_room(tmp_path / "c.sock", refusing(code, "no such sandbox")):
        assert hook({**STATE, "pid": 0}, "--release")[0] == expected


def test_usage(hook):
    """An unknown option fails the start rather than being ignored."""
    code, said = hook(STATE, "--alow-unwatched")

    assert code == 2
    assert said.startswith("agentwall: usage: agentwall-hook [--release]")


def test_what_it_imports():
    """A container's start waits for it: nothing heavy is imported."""
    program = "import sys, agentwall.cli.admission; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"click", "pydantic", "numpy", "rich", "yaml", "dataclasses", "asyncio", "ctypes"}

    assert heavy.isdisjoint(loaded)
    assert {name for name in loaded if name.startswith("agentwall.")} == {
        "agentwall.cli",
        "agentwall.cli.admission",
    }


@contextmanager
def as_program(state: dict[str, object], path: Path):
    """The hook as a process, with nothing in its environment, as runc starts it."""
    words = [sys.executable, "-I", "-m", "agentwall.cli.admission", f"--socket={path}"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={}, cwd="/"
    ) as child:
        yield child, child.communicate(json.dumps(state), timeout=120)[1]


def test_as_program(tmp_path, contained):
    """It works without an environment, and its exit code is the answer."""
    with control_room(tmp_path / "c.sock") as room:
        with as_program(of(contained), room.path) as (child, said):
            assert (child.returncode, said) == (0, "")
        room.answer = refusing("failed", "no room")
        with as_program(of(contained), room.path) as (child, said):
            assert (child.returncode, said) == (
                1,
                "agentwall: admit: refused: no room (failed)\n",
            )
