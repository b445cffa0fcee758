# SPDX-License-Identifier: Apache-2.0
"""The listening socket: whose it is, what it replaces, and what systemd hands over."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys

import pytest
from rig.cli import environment
from rig.scratch import scratch

from agentwall.daemon.config_groups import Groups
from agentwall.daemon.control_socket import make_control_socket, take_control_sockets
from agentwall.errors import HostError

NOBODY = Groups(readers=None, operators=None)
A, B = 61_001, 61_002
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to groups")


@ROOT_ONLY
@pytest.mark.parametrize(
    ("groups", "mode", "gid"),
    [
        (NOBODY, 0o600, 0),
        (Groups(readers=A, operators=None), 0o660, A),
        (Groups(readers=None, operators=B), 0o660, B),
        (Groups(readers=A, operators=A), 0o660, A),
        (Groups(readers=B, operators=A), 0o660, A),
    ],
)
def test_owner_and_mode(tmp_path, groups, mode, gid):
    """The socket is root's, and open to the groups that have rights and nobody else."""
    old_mask = os.umask(0)
    try:
        made = make_control_socket(tmp_path / "run" / "c.sock", groups)
    finally:
        os.umask(old_mask)
    found = (tmp_path / "run" / "c.sock").stat()
    directory = (tmp_path / "run").stat()
    made.close()

    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, 0, gid)
    assert stat.S_IMODE(directory.st_mode) == 0o711
    assert not (tmp_path / "run" / "c.sock").exists()


@ROOT_ONLY
@pytest.mark.parametrize(("gid", "can"), [(A, True), (B, True), (61_003, False)])
def test_two_groups(gid, can):
    """Members of either group can connect, and others cannot."""
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    command = ["setpriv", "--reuid=61000", "--regid=61000", f"--groups={gid}"]
    # Not below pytest's own directory: each pytest that starts closes that to others again.
    with scratch("two") as directory:
        made = make_control_socket(directory / "c.sock", Groups(readers=A, operators=B))
        done = subprocess.run(
            [*command, sys.executable, "-I", "-c", script, str(made.path)],
            capture_output=True,
            text=True,
            check=False,
        )
        made.close()

    assert (done.returncode == 0) is can
    assert ("PermissionError" in done.stderr) is not can


def test_stale_socket(tmp_path):
    """What a dead daemon left is replaced."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "c.sock"))
    made = make_control_socket(tmp_path / "c.sock", NOBODY)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(tmp_path / "c.sock"))
    made.close()


@pytest.mark.parametrize("is_full", [False, True])
def test_live_socket(tmp_path, is_full):
    """Where another daemon listens, this one does not start, and the other goes on."""
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(2 if is_full else 0)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(str(path))
        with pytest.raises(HostError, match="another daemon answers there"):
            make_control_socket(path, NOBODY)
        for each in waiting:
            each.close()

        assert path.is_socket()


def test_other_file_in_the_way(tmp_path):
    """A file that is no socket is not touched."""
    (tmp_path / "c.sock").write_text("precious")
    with pytest.raises(HostError, match="expected a socket or nothing, got another file"):
        make_control_socket(tmp_path / "c.sock", NOBODY)

    assert (tmp_path / "c.sock").read_text() == "precious"


def test_path_that_is_too_long(tmp_path):
    """What cannot be bound is an error with the path."""
    with pytest.raises(HostError, match="making the control socket: "):
        make_control_socket(tmp_path / ("x" * 120), NOBODY)


def test_close_leaves_the_next_daemon_alone(tmp_path):
    """Only its own file is removed, and not even that where it is to stay."""
    path = tmp_path / "c.sock"
    first = make_control_socket(path, NOBODY)
    path.unlink()
    second = make_control_socket(path, NOBODY)
    first.close()
    assert path.is_socket()
    second.close(keep=True)
    assert path.is_socket()
    third = make_control_socket(path, NOBODY)
    third.close()

    assert not path.exists()


def _take(listening, count="1", pid="$$"):
    """What a process makes of the sockets it finds from descriptor 3 on."""
    script = (
        "import os\n"
        "from agentwall.daemon.control_socket import take_control_sockets\n"
        "from agentwall.errors import HostError\n"
        "try:\n"
        "    taken = take_control_sockets(os.environ)\n"
        "    print(len(taken), 'LISTEN_FDS' in os.environ,"
        " *(each.socket.getblocking() for each in taken))\n"
        "    [each.close() for each in taken]\n"
        "except HostError as err:\n"
        "    print(err)\n"
    )
    shell = f'export LISTEN_FDS={count} LISTEN_PID={pid} LISTEN_FDNAMES=control; exec "$@" 3<&0'
    done = subprocess.run(
        ["/bin/sh", "-c", shell, "sh", sys.executable, "-c", script],
        stdin=listening,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


def test_handed_over(tmp_path):
    """A listening unix socket is taken, does not block, and the variables are gone."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "c.sock"))
        listening.listen()

        assert _take(listening) == "1 False False"
        assert (tmp_path / "c.sock").exists()


def test_handed_over_to_another(tmp_path):
    """What was meant for another process is not taken."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "c.sock"))
        listening.listen()

        assert _take(listening, pid="1") == "0 False"
        assert take_control_sockets({}) == []


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_INET, socket.SOCK_STREAM),
    ],
)
def test_handed_over_something_else(family, kind):
    """A socket that does not listen, or of another kind, is an error that names it."""
    with socket.socket(family, kind) as other:
        if family == socket.AF_INET:
            other.bind(("127.0.0.1", 0))
            other.listen()

        expected = "LISTEN_FDS: descriptor 3: expected a listening unix stream socket"
        assert _take(other) == expected


def test_handed_over_no_socket(tmp_path):
    """A descriptor that is no socket is an error too."""
    with open(os.devnull) as file:
        assert _take(file) == "LISTEN_FDS: descriptor 3: no socket"
