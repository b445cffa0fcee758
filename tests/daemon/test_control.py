# SPDX-License-Identifier: Apache-2.0
"""The control socket answers everything, stays within bounds, and never stands still."""

from __future__ import annotations

import json
import os
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.control import read_line, request, serving
from rig.descriptors import descriptors
from rig.process import wait_until

from agentwall.daemon.connections import Deferred
from agentwall.errors import ControlCode, ControlError, HostError

OK = {"schema": "agentwall.control/1", "ok": True}


@pytest.fixture
def served(tmp_path):
    """A server whose handler says what it was asked."""
    with serving(tmp_path / "c.sock") as served:
        yield served


def _error(code, message):
    error = {"code": code, "message": message}
    return {"schema": "agentwall.control/1", "ok": False, "error": error}


def test_several_requests_on_one_connection(served):
    """Requests that come in one piece are answered one by one, in their order."""
    names = ["status", "sandbox-list", "sandbox-show"] * 20
    with served.connect() as asking:
        asking.sendall(b"".join(request(name, n=n) for n, name in enumerate(names)))
        answers = [read_line(asking) for _ in names]

    assert answers == [{**OK, "result": {"request": name}} for name in names]
    assert [arguments for _, _, arguments in served.calls] == [{"n": n} for n in range(60)]
    assert served.calls[0][0].pid == os.getpid()


def test_request_in_single_bytes(served):
    """A line may come in any pieces."""
    with served.connect() as asking:
        for byte in request("status"):
            asking.send(bytes([byte]))

        assert read_line(asking)["ok"] is True


def test_half_closed(served):
    """Who says that nothing follows still gets every answer, and then the end."""
    with served.connect() as asking:
        asking.sendall(request("status") * 3)
        asking.shutdown(socket.SHUT_WR)

        assert [read_line(asking)["ok"] for _ in range(3)] == [True] * 3
        assert asking.recv(1) == b""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\n", "expected JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[]\n", "expected a JSON object"),
        (b"{}\n", "schema: expected agentwall.control/1"),
        (b'{"schema":"agentwall.control/1"}\n', "request: expected a name"),
        (b'{"schema":"agentwall.control/1","request":7}\n', "request: expected a name"),
        (request("no-such"), "request: no such request: no-such"),
        (request("\x1b[2J" + "x" * 100), "request: no such request: \\x1b[2J"),
        (b"\xff\xfe\n", "expected JSON: "),
        (b'{"a":NaN}\n', "expected JSON: NaN is no JSON"),
        (b"[" * 100_000 + b"\n", "expected JSON: maximum recursion depth"),
        (b'{"a":' + b"9" * 10_000 + b"}\n", "expected JSON: Exceeds the limit"),
    ],
)
def test_malformed_request(served, line, message):
    """What is no request is ``invalid``, and the connection goes on."""
    with served.connect() as asking:
        asking.sendall(line + request("status"))
        answer = read_line(asking)

        assert answer["error"]["code"] == "invalid"
        assert answer["error"]["message"].startswith(message)
        assert read_line(asking)["ok"] is True


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.binary(max_size=200)
        | st.sampled_from([b"\n", request("status"), b'{"schema":"agentwall.control/1",'])
        | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass") + b"\n"),
        max_size=8,
    )
)
def test_garbage(served, pieces):
    """Whatever comes, each line has one well-formed answer, and others are served."""
    data = b"".join(pieces)
    with served.connect() as asking, served.connect() as other:
        for piece in pieces:
            asking.sendall(piece)
        asking.shutdown(socket.SHUT_WR)
        answers = [json.loads(line) for line in asking.makefile("rb")]
        other.sendall(request("status"))

        assert len(answers) == data.count(b"\n")
        assert all(("result" in answer) is answer["ok"] for answer in answers)
        assert read_line(other)["ok"] is True


@pytest.mark.parametrize("answer", [{"x": object()}, {"x": float("nan")}, {1: {2}}])
def test_answer_that_is_no_json(tmp_path, answer, caplog):
    """A handler's defect is ``failed``, and logged with its traceback."""
    with serving(tmp_path / "c.sock", lambda *_: answer) as served, served.connect() as asking:
        asking.sendall(request("status"))

        assert read_line(asking) == _error("failed", "a defect of agentwall; its log has more")
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ControlError(ControlCode.NOT_FOUND, "no such sandbox: x"), ("not-found", None)),
        (ControlError(ControlCode.BUSY, "a reload is under way"), ("busy", None)),
        (HostError("cgroup /x: gone \udcff"), ("failed", "cgroup /x: gone \\xff")),
        (KeyError("x"), ("failed", "status: a defect of agentwall; its log has more")),
    ],
)
def test_handler_that_raises(tmp_path, error, expected):
    """An error has its code and its words; one that nobody foresaw ends nothing."""

    def raising(*_):
        raise error

    with serving(tmp_path / "c.sock", raising) as served, served.connect() as asking:
        for _ in range(2):
            asking.sendall(request("status"))

            assert read_line(asking) == _error(expected[0], expected[1] or str(error))


def test_answer_that_comes_later(tmp_path):
    """A deferred answer holds up its own connection only, and keeps the order there."""
    deferred = Deferred()

    def handle(_caller, name, _arguments):
        return deferred if name == "reload" else {"request": name}

    with serving(tmp_path / "c.sock", handle) as served:
        waiting, other = served.connect(), served.connect()
        with waiting, other:
            waiting.sendall(request("reload") + request("status"))
            other.sendall(request("status"))
            assert read_line(other)["ok"] is True
            before = served.turns
            served.in_loop(lambda: deferred.complete({"applied": True}))

            assert read_line(waiting) == {**OK, "result": {"applied": True}}
            assert read_line(waiting) == {**OK, "result": {"request": "status"}}
            assert served.turns - before < 8


@pytest.mark.parametrize("is_error", [False, True])
def test_answer_that_is_there_already(tmp_path, is_error):
    """A deferred answer may be complete before it is returned."""

    def handle(*_):
        deferred = Deferred()
        if is_error:
            deferred.fail(ControlError(ControlCode.FAILED, "no"))
        else:
            deferred.complete({"a": 1})
        return deferred

    with serving(tmp_path / "c.sock", handle) as served, served.connect() as asking:
        asking.sendall(request("reload") * 2)
        expected = _error("failed", "no") if is_error else {**OK, "result": {"a": 1}}

        assert [read_line(asking), read_line(asking)] == [expected, expected]


def test_client_that_leaves_before_its_answer(tmp_path):
    """Nobody waits any more: the deferred answer says so, and its completion does nothing."""
    deferred = Deferred()
    with serving(tmp_path / "c.sock", lambda *_: deferred) as served:
        with served.connect() as asking:
            asking.sendall(request("reload"))
            wait_until(lambda: served.calls, what="the request")
        wait_until(lambda: not deferred.is_wanted, what="the end of who asked")
        served.in_loop(lambda: deferred.complete({}))

        assert served.server.filenos() != []


def test_deferred_answer_given_twice():
    """A second completion is a defect, and told."""
    deferred = Deferred()
    deferred.complete({})

    with pytest.raises(RuntimeError, match="twice"):
        deferred.complete({})


def test_close(tmp_path):
    """The server ends while clients are there; every descriptor goes with it."""
    before = descriptors()
    with serving(tmp_path / "c.sock") as served:
        asking = served.connect()
        asking.sendall(request("status"))
        read_line(asking)
    with asking:
        assert asking.recv(1) == b""

    assert descriptors() <= before
