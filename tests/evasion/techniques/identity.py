# SPDX-License-Identifier: Apache-2.0
"""Ways to stop being the process, cgroup or namespace that is watched."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from techniques import tcp, udp
from techniques.plan import Plan

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NAME = 15


def forked(plan: Plan, to: str) -> None:
    """Let a child do it."""
    _in_child(lambda: tcp.connect(plan, to))


def daemonised(plan: Plan, to: str) -> None:
    """Let an orphan in a session of its own do it."""

    def leave_session() -> None:
        os.setsid()
        _in_child(lambda: tcp.connect(plan, to))

    _in_child(leave_session)


def renamed(plan: Plan, to: str) -> None:
    """Do it under the name of a kernel thread."""
    _call("prctl", PR_SET_NAME, b"kworker/0:0", 0, 0, 0)
    tcp.connect(plan, to)


def executed(plan: Plan, to: str) -> None:
    """Let another program do it: bash and its /dev/tcp."""
    place = plan.place(to)
    script = f"exec 3<>/dev/tcp/{place.host}/{place.port} && printf %s {plan.marker.decode()} >&3"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, text=True)
    if "Operation not permitted" in done.stderr:
        raise PermissionError(1, done.stderr)
    if done.returncode:
        raise AssertionError(done.stderr)


def child_cgroup(plan: Plan, to: str) -> None:
    """Move to a cgroup made inside the sandbox's after the wall was attached."""
    child = Path(plan.cgroup) / "child"
    child.mkdir()
    try:
        (child / "cgroup.procs").write_text("0")
        tcp.connect(plan, to)
    finally:
        (Path(plan.cgroup) / "cgroup.procs").write_text("0")
        child.rmdir()


def left_with_socket(plan: Plan, to: str, kind: str) -> None:
    """Make the socket inside, then leave the cgroup and use it."""
    with plan.open(to, getattr(socket, kind)) as sock:
        (Path(plan.outside) / "cgroup.procs").write_text("0")
        if kind == "SOCK_DGRAM":
            sock.sendto(plan.marker, plan.place(to).address)
        else:
            sock.connect(plan.place(to).address)
            sock.sendall(plan.marker)


def left_connected(plan: Plan, to: str) -> None:
    """Connect a UDP socket inside (nothing is sent), then leave the cgroup and send."""
    with plan.open(to, socket.SOCK_DGRAM) as sock:
        sock.connect(plan.place(to).address)
        (Path(plan.outside) / "cgroup.procs").write_text("0")
        sock.send(plan.marker)


def other_netns(plan: Plan, to: str, how: str) -> None:
    """Enter another network namespace that has a road of its own (needs SYS_ADMIN)."""
    with open(plan.side_netns) as netns:
        _call("setns", netns.fileno(), CLONE_NEWNET)
    if how == "tcp":
        tcp.connect(plan, to)
    else:
        udp.sendto(plan, to)


def unshared_netns(plan: Plan, to: str) -> None:
    """Build a network namespace with a veth to the far side (needs SYS_ADMIN, NET_ADMIN)."""
    _call("unshare", CLONE_NEWNET)
    host = plan.place(to).host
    far = f"nsenter --net={plan.far_netns}"
    # The kernel takes its time to remove what an attempt before has left there.
    peer = f"own{plan.marker[-10:].decode()}"
    script = (
        f"ip link add own0 type veth peer name {peer} netns {Path(plan.far_netns).name} && "
        f"ip link set own0 up && ip link set lo up && {far} ip link set {peer} up && "
        f"ip address add 10.98.0.1/24 dev own0 && {far} ip address add {host}/24 dev {peer}"
    )
    subprocess.run(["sh", "-c", script], check=True)
    tcp.connect(plan, to)


def user_namespace(plan: Plan, to: str) -> None:
    """Become root of a user namespace, with every capability there."""
    _call("unshare", CLONE_NEWUSER)
    tcp.connect(plan, to)


def passed_to_child(plan: Plan, to: str) -> None:
    """Make the socket in one process and use it in another, over SCM_RIGHTS."""
    ours, theirs = socket.socketpair()
    with plan.open(to, socket.SOCK_STREAM) as sock:
        socket.send_fds(ours, [b"x"], [sock.fileno()])

    def use() -> None:
        _, descriptors, _, _ = socket.recv_fds(theirs, 1, 1)
        with socket.socket(fileno=descriptors[0]) as received:
            received.connect(plan.place(to).address)
            received.sendall(plan.marker)

    _in_child(use)


def _in_child(action: Callable[[], object]) -> None:
    """Run *action* in a forked child and raise here what it raised there."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            action()
        except OSError as err:
            code = err.errno or 0
        os.write(writable, json.dumps(code).encode())
        os._exit(0)
    os.close(writable)
    code = int(os.read(readable, 64) or b"0")
    os.close(readable)
    os.waitpid(pid, 0)
    if code:
        raise OSError(code, "child")


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
