# SPDX-License-Identifier: Apache-2.0
"""Rights go by who asks, as the kernel says it: real users, groups, cgroups and passed sockets."""

from __future__ import annotations

import array
import os
import socket
import subprocess
import sys

import pytest
from rig.cgroup import cgroup_root, in_cgroup, temp_cgroup
from rig.control import read_line, request, serving
from rig.scratch import scratch

from agentwall.daemon import callers
from agentwall.daemon.callers import (
    NEEDED,
    Caller,
    Peer,
    Rights,
    permits,
    rights_of,
)
from agentwall.daemon.config_groups import Groups

READERS, OPERATORS, OTHERS = 61_001, 61_002, 61_003
GROUPS = Groups(readers=READERS, operators=OPERATORS)
SOMEBODY = 61_000


def _caller(uid=SOMEBODY, gids=(), cgroup="/user.slice"):
    return Caller(pid=7, uid=uid, gids=frozenset(gids), cgroup=cgroup)


@pytest.mark.parametrize(
    ("caller", "groups", "rights"),
    [
        (_caller(0), GROUPS, Rights.ALL),
        (_caller(gids=[READERS]), GROUPS, Rights.READ),
        (_caller(gids=[OPERATORS]), GROUPS, Rights.OPERATE),
        (_caller(gids=[READERS, OPERATORS, OTHERS]), GROUPS, Rights.OPERATE),
        (_caller(gids=[OTHERS]), GROUPS, Rights.NONE),
        (_caller(gids=[]), Groups(readers=None, operators=None), Rights.NONE),
        (_caller(0, cgroup="/pods/a"), GROUPS, Rights.NONE),
        (_caller(gids=[OPERATORS], cgroup="/pods"), GROUPS, Rights.NONE),
    ],
)
def test_rights(caller, groups, rights):
    """Root may all, groups what they are for, and a sandbox nothing, root or not."""
    assert rights_of(caller, groups, lambda path: path.startswith("/pods")) is rights


@pytest.mark.parametrize(
    ("rights", "permitted"),
    [
        (Rights.NONE, set()),
        (Rights.READ, {"status", "sandbox-list", "sandbox-show", "denials"}),
        (
            Rights.OPERATE,
            {"status", "sandbox-list", "sandbox-show", "denials", "sandbox-label"},
        ),
        (Rights.ALL, set(NEEDED)),
    ],
)
def test_permits(rights, permitted):
    """Readers look, operators label, and root does the rest."""
    assert {name for name in NEEDED if permits(rights, name)} == permitted


NO_SUCH_OPTION = 9999
"""In place of SO_PEERPIDFD: what a kernel before 6.5 answers."""


@pytest.mark.parametrize("is_old", [False, True])
def test_peer(monkeypatch, is_old):
    """A process of its own finds itself, with and without the kernel's descriptor of it."""
    if is_old:
        monkeypatch.setattr(callers, "_SO_PEERPIDFD", NO_SUCH_OPTION)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer(ours)
        found = peer.look()
        peer.close()

        assert found is not None
        assert (found.pid, found.uid) == (os.getpid(), os.geteuid())
        assert found.gids >= {os.getegid(), *os.getgroups()}
        assert found.cgroup.startswith("/")
        assert peer.look() is None


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")


@pytest.fixture
def served():
    """A server that others can reach, with a sandbox whose cgroup is ``served.cgroup``."""
    # Not below pytest's own directory: each pytest that starts closes that to others again.
    with scratch("control") as directory, temp_cgroup() as cgroup:
        inside = "/" + str(cgroup.relative_to(cgroup_root()))
        with serving(
            directory / "c.sock",
            groups=GROUPS,
            is_inside=lambda path: path == inside or path.startswith(inside + "/"),
        ) as served:
            served.cgroup = cgroup
            yield served


def _as(*groups, uid=SOMEBODY, gid=OTHERS):
    extra = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", *extra]


@pytest.mark.parametrize(
    ("prefix", "name", "code"),
    [
        ([], "sandbox-mode", None),
        (_as(READERS), "status", None),
        (_as(gid=READERS), "denials", None),
        (_as(READERS), "sandbox-label", "not-permitted"),
        (_as(OPERATORS), "sandbox-label", None),
        (_as(OPERATORS), "status", None),
        (_as(OPERATORS), "sandbox-mode", "not-permitted"),
        (_as(READERS, OPERATORS), "stop", "not-permitted"),
        (_as(READERS), "no-such", "invalid"),
    ],
)
def test_peers(served, prefix, name, code):
    """Users and groups, supplementary ones too, as setpriv(1) makes them."""
    answer = served.ask(request(name), *prefix)

    assert answer["ok"] is (code is None)
    assert answer.get("error", {}).get("code") == code
    assert len(served.calls) == (code is None)
    assert len(served.refusals) == (code == "not-permitted")


def test_stranger(served):
    """Who is in no group cannot even connect."""
    with pytest.raises(ConnectionError, match="PermissionError"):
        served.ask(request("status"), *_as())


def test_stranger_with_an_open_socket(served):
    """Where the socket's file is open to all, the daemon itself refuses, and tells who it was."""
    served.path.chmod(0o666)
    answer = served.ask(request("sandbox-list"), *_as())
    (refusal,) = served.refusals

    assert answer["error"] == {"code": "not-permitted", "message": "you have no rights here"}
    assert (refusal.uid, refusal.request) == (SOMEBODY, "sandbox-list")
    assert refusal.why == "it is in no group with rights"
    assert served.calls == []
    assert served.server.refused == 1


@pytest.mark.parametrize("depth", ["", "below"])
def test_root_in_a_sandbox(served, depth, caplog):
    """Root in a sandbox's cgroup, or in one below it, is refused whatever it asks; it is logged."""
    cgroup = served.cgroup / depth
    cgroup.mkdir(exist_ok=True)
    line = request("sandbox-mode", sandbox=None, mode="audit", for_s=60, reason="x")
    answer = served.ask(line, *in_cgroup(cgroup))
    (refusal,) = served.refusals

    assert answer["error"]["code"] == "not-permitted"
    assert served.calls == []
    assert refusal.uid == 0
    assert refusal.why == f"it is in /{cgroup.relative_to(cgroup_root())}"
    assert f"control: sandbox-mode of pid {refusal.pid} (uid 0) refused: it is in" in caplog.text


def test_sandbox_with_garbage(served):
    """A refused line is read for the log alone, and what is in it cannot reach the terminal."""
    for line in (request("\x1b[31m"), b"garbage\n", b"\n"):
        assert served.ask(line.rstrip(b"\n"), *in_cgroup(served.cgroup))["ok"] is False
    asked = [refusal.request for refusal in served.refusals]

    assert asked == ["\\x1b[31m", "something unreadable", ""]


def test_moved_into_a_sandbox(served):
    """Who connected outside and is in a sandbox by now has no rights any more."""
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "open(sys.argv[2] + '/cgroup.procs', 'w').write('0');"
        "s.sendall(sys.argv[3].encode() + b'\\n'); print(s.makefile().readline())"
    )
    line = request("status").decode().strip()
    command = [sys.executable, "-I", "-c", script, str(served.path), str(served.cgroup), line]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert '"not-permitted"' in done.stdout
    assert served.calls == []


def test_inherited_connection(served):
    """A connection that root made is worth nothing in the hands of a sandbox that inherits it."""
    with served.connect() as asking:
        asking.sendall(request("status"))
        assert read_line(asking)["ok"] is True
        script = "import os, sys; os.write(int(sys.argv[1]), sys.argv[2].encode() + b'\\n')"
        subprocess.run(
            in_cgroup(
                served.cgroup,
                *(sys.executable, "-I", "-c", script, str(asking.fileno())),
                request("sandbox-label").decode().strip(),
            ),
            pass_fds=[asking.fileno()],
            timeout=60,
            check=True,
        )

        assert read_line(asking)["error"]["code"] == "not-permitted"
        assert asking.recv(1) == b""
    assert [name for _, name, _ in served.calls] == ["status"]


@pytest.mark.parametrize(
    ("prefix", "code"), [([], None), (_as(READERS), "not-permitted"), (_as(), "not-permitted")]
)
def test_lent_connection(served, prefix, code):
    """A connection in other hands has the lesser rights of the two; the sender has to live."""
    script = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.settimeout(60);"
        "s.sendall(sys.argv[2].encode() + b'\\n'); print(s.makefile().readline())"
    )
    with served.connect() as asking:
        line = request("sandbox-label").decode().strip()
        command = [*prefix, sys.executable, "-I", "-c", script, str(asking.fileno()), line]
        done = subprocess.run(
            command,
            pass_fds=[asking.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    assert ('"not-permitted"' in done.stdout) is (code is not None)
    assert ('"ok":true' in done.stdout) is (code is None)


def test_line_of_two_senders(served):
    """One line begun by root and ended by a sandbox is the sandbox's."""
    line = request("sandbox-mode").decode().strip()
    with served.connect() as asking:
        asking.sendall(line[:20].encode())
        # It lives until it has been looked at.
        script = (
            "import os, sys; os.write(int(sys.argv[1]), sys.argv[2].encode() + b'\\n');"
            "sys.stdin.read()"
        )
        sandbox = subprocess.Popen(
            in_cgroup(
                served.cgroup,
                *(sys.executable, "-I", "-c", script, str(asking.fileno()), line[20:]),
            ),
            pass_fds=[asking.fileno()],
            stdin=subprocess.PIPE,
        )
        with sandbox:
            answer = read_line(asking)

    assert answer["error"]["code"] == "not-permitted"
    assert sandbox.returncode == 0
    assert served.calls == []
    assert served.refusals[0].why.startswith("it is in /")


@pytest.mark.parametrize("is_old", [False, True])
def test_caller_that_has_ended(served, monkeypatch, is_old):
    """A request whose maker has gone by the time it is read is nobody's."""
    if is_old:
        monkeypatch.setattr(callers, "_SO_PEERPIDFD", NO_SUCH_OPTION)
    script = (
        "import os, socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.connect(sys.argv[2])"
    )
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(60)
        command = [sys.executable, "-I", "-c", script, str(asking.fileno()), str(served.path)]
        subprocess.run(command, pass_fds=[asking.fileno()], timeout=60, check=True)
        asking.sendall(request("status"))

        assert read_line(asking)["error"]["code"] == "not-permitted"
    assert served.refusals[0].why == "whoever asks has ended, or cannot be told"


def test_passed_descriptors(served):
    """Descriptors that come along with a request are not taken."""
    before = len(os.listdir("/proc/self/fd"))
    with served.connect() as asking, open(os.devnull) as file:
        rights = array.array("i", [file.fileno()] * 8)
        for _ in range(20):
            asking.sendmsg(
                [request("status")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights.tobytes())]
            )
            assert read_line(asking)["ok"] is True

        assert len(os.listdir("/proc/self/fd")) - before <= 4


def test_strangers_take_no_places(served):
    """A sandbox that holds all connections keeps nobody out, and its lines are short."""
    served.path.chmod(0o666)
    script = (
        "import socket, sys, time\n"
        "held = []\n"
        "for _ in range(70):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)\n"
        # Refused, it has lost its place, which another takes.
        "held[0].sendall(b'x' * 5000); held[0].recv(1)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    command = in_cgroup(served.cgroup, sys.executable, "-I", "-c", script, served.path)
    crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with crowd:
        assert crowd.stdout.readline() == "ready\n"
        assert served.ask(request("status"), *_as(READERS))["ok"] is True
        assert served.ask(request("status"))["ok"] is True
        crowd.stdin.close()
        assert crowd.wait(60) == 0

    assert [refusal.why for refusal in served.refusals] == ["no rights here"]


def test_root_takes_a_place(served):
    """Where readers hold every place, root still comes in."""
    script = (
        "import socket, sys\n"
        "held = []\n"
        "for _ in range(64):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    command = [*_as(READERS), sys.executable, "-I", "-c", script, str(served.path)]
    crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with crowd:
        assert crowd.stdout.readline() == "ready\n"
        answer = served.ask(request("status"), *_as(READERS))
        assert answer["error"]["code"] == "busy"
        assert served.ask(request("sandbox-mode"))["ok"] is True
        crowd.stdin.close()
        assert crowd.wait(60) == 0
