# SPDX-License-Identifier: Apache-2.0
"""What a sandbox that a runtime made could reach, as the host sees it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.held_memory import held_or_skip
from rig.process import wait_until
from rig.scratch import scratch

from agentwall.host import exposure_of
from agentwall.host.argv import ArgvReader
from agentwall.host.coverage import Facts, assess_coverage
from agentwall.host.exposure_of import Guarding, HostView, Service, facts_of, look_at_host
from agentwall.host.socket_families import unseen_families

pytestmark = pytest.mark.kernel

GUARDING = Guarding(cgroup="/sandbox")
CONFINED = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
MINE = "setpriv --bounding-set -all --inh-caps -all --no-new-privs"
UNLIKELY = 2**22 + 1
WAIT = "echo; read x"


@pytest.fixture(scope="module")
def view() -> HostView:
    """This host, as if it had no family that no hook sees."""
    return replace(look_at_host(), families=())


@contextmanager
def inside(script: str = "exec sleep 60", *, options: tuple[str, ...] = CONFINED):
    """Run a shell in namespaces of its own; yield the pid it has here once it sleeps."""
    with subprocess.Popen(["unshare", *options, "sh", "-c", script]) as child:
        pid = child.pid
        try:
            pid = _settled(child.pid)
            yield pid
        finally:
            # Where unshare waits for it, it need not end with that.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            child.kill()


def _settled(pid: int) -> int:
    found: list[int] = []

    def is_there() -> bool:
        current = pid
        while True:
            try:
                # Last of what execve(2) changes: its name is another before its rights are.
                if os.path.basename(_arguments(current)[0]) == b"sleep":
                    found.append(current)
                    return True
                with open(f"/proc/{current}/task/{current}/children") as children:
                    current = int(children.read().split()[0])
            except (OSError, IndexError):
                return False

    wait_until(is_there, what="a sleeping process")
    return found[0]


def _arguments(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().split(b"\0")[:-1]


def facts(pid: int, view: HostView, **changes: object) -> Facts:
    return of_all([pid], view, **changes)


def of_all(pids: list[int], view: HostView, **changes: object) -> Facts:
    with closing(ArgvReader()) as argv:
        return facts_of(pids, view, replace(GUARDING, **changes), argv)


def test_confined(view):
    """Namespaces of its own, no capability and none to gain: nothing is open but what it mounts."""
    script = f"umount -l /sys/fs/cgroup; umount -l /sys/fs/bpf; exec {MINE} sleep 60"
    with inside(script) as pid:
        found = facts(pid, replace(view, services=()))

    assert (found.has_own_netns, found.has_own_pidns) == (True, True)
    assert (found.kept_capabilities, found.unknown, found.own_stack) == ((), (), ())
    assert found.filters_families
    assert found.family_filter == "no seccomp filter"


def test_privileged(view):
    """Capabilities that it has, or may gain through a file, are roads."""
    with inside() as pid:
        found = facts(pid, view)

    assert {"NET_RAW", "NET_ADMIN", "BPF", "SYS_ADMIN", "SYS_PTRACE"} <= set(
        found.kept_capabilities
    )


def test_bounding_set(view):
    """What no file can give any more because of no_new_privs does not count."""
    drop = "--reuid 12345 --clear-groups"
    with inside(f"exec setpriv {drop} sleep 60") as pid:
        gainable = facts(pid, view).kept_capabilities
    with inside(f"exec setpriv {drop} --no-new-privs sleep 60") as pid:
        barred = facts(pid, view).kept_capabilities

    assert "NET_RAW" in gainable
    assert barred == ()


def test_user_namespace(view):
    """In a user namespace of its own only those over its own network count."""
    with inside(options=("--user", "--map-root-user", "--net", "--pid", "--fork")) as pid:
        found = facts(pid, view)

    assert found.kept_capabilities == ("NET_ADMIN", "NET_RAW")


def test_hosts_namespaces(view):
    """What it shares with the host is a road each."""
    with inside(options=("--mount",)) as pid:
        found = facts(pid, view)

    assert (found.has_own_netns, found.has_own_pidns) == (False, False)


@pytest.mark.parametrize("pids", [[], [UNLIKELY]])
def test_nobody(view, pids):
    """Without a process to look at nothing is known, and that is not full."""
    found = of_all(pids, view)

    assert "no process that could be looked at" in found.unknown
    assert not found.has_own_netns
    assert assess_coverage(found).level.value == "partial"


def test_gone(view):
    """One process that has gone makes what is known less than all."""
    with inside() as pid:
        found = of_all([pid, UNLIKELY], view)

    assert found.unknown == ("processes that had gone or are not readable: 1",)
    assert found.has_own_netns


def test_many(view, monkeypatch):
    """Those beyond the bound are not known."""
    monkeypatch.setattr(exposure_of, "_MAX_PROCESSES", 1)
    with inside() as pid, inside() as other:
        found = of_all([pid, other], view)

    assert found.unknown == ("processes not looked at: 1",)


def test_held_memory(view, tmp_path):
    """Who has a name as gVisor has and lets nobody read its arguments is not known."""
    program = tmp_path / "exe"
    shutil.copy(os.path.realpath(sys.executable), program)
    argv = ArgvReader()
    with temp_cgroup() as cgroup, held_or_skip(tmp_path, cgroup, 1, str(program)) as held:
        found = facts_of(held.pids, view, GUARDING, argv)
        left_behind = argv.left_behind
    argv.close()

    assert "processes that had gone or are not readable: 1" in found.unknown
    assert left_behind == 1


def test_nobody_to_compare_with(view):
    """Where the host's namespaces are not known, none is the sandbox's own."""
    with inside() as pid:
        found = facts(pid, replace(view, namespaces={}))

    assert not found.has_own_netns
    assert not found.has_own_pidns


def test_worst_of_several(view):
    """One process in the host's network namespace is enough."""
    with inside() as pid, inside(options=("--mount",)) as other:
        found = of_all([pid, other], view)

    assert not found.has_own_netns


def test_socket_under_another_name(view):
    """A service's socket is found by its file system, wherever it is mounted and by what path."""
    with scratch("service") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = directory / "docker.sock"
        listener.bind(str(path))
        listener.listen()
        [service] = [s for s in look_at_host([str(path)]).services if s.path == str(path)]
        assert not service.inner.startswith("//")
        new = f"{directory}/new"
        jail = (
            f"mkdir {new}; mount -t tmpfs tmpfs {new}; mkdir {new}/bin {new}/proc; cd {new};"
            "cp /usr/bin/busybox bin/sleep; cp bin/sleep bin/umount; touch y.sock;"
        )
        leave = "mount -t proc proc proc; pivot_root . . && /bin/umount -l . && exec /bin/sleep 60"
        with inside(f"{jail} mount --bind {path} y.sock; {leave}") as pid:
            reached = facts(pid, replace(view, services=(service,))).host_sockets
        with inside(f"rm -rf {new}; {jail} {leave}") as pid:
            out_of_reach = facts(pid, replace(view, services=(service,))).host_sockets

    assert (reached, out_of_reach) == ((str(path),), ())


def test_deputies_and_others(view):
    """Deputies are told apart by name, and a socket on another file system is out of reach."""
    services = (
        Service(path="/run/nscd/socket", device=_root_device(), inner="/x/y", deputy="nscd"),
        Service(path="/run/docker.sock", device="999:1", inner="/docker.sock", deputy=None),
    )
    with inside() as pid:
        found = facts(pid, replace(view, services=services))

    assert found.kept_deputies == ("/run/nscd/socket (nscd)",)
    assert found.host_sockets == ()


def _root_device() -> str:
    with open("/proc/self/mountinfo") as mounts:
        return next(line.split()[2] for line in mounts if line.split()[4] == "/")


def test_kernel_filesystems(view):
    """bpffs in any state, and cgroupfs that is writable and shows more than its own cgroup."""
    with scratch("mounts") as directory:
        for name in ("bpf", "rw", "ro"):
            (directory / name).mkdir()
        script = (
            f"mount -t bpf bpf {directory}/bpf; mount -t cgroup2 cgroup2 {directory}/rw;"
            f"mount --bind {directory}/rw {directory}/ro;"
            f"mount -o remount,bind,ro {directory}/ro; exec sleep 60"
        )
        with inside(script) as pid:
            mine = [text for text in facts(pid, view).kernel_filesystems if str(directory) in text]
            below = facts(pid, view, cgroup="/").kernel_filesystems

    assert mine == [f"bpf on {directory}/bpf", f"cgroup2 on {directory}/rw, writable"]
    assert all(text.startswith("bpf on ") for text in below)


@pytest.mark.parametrize(
    ("name", "arguments", "stack"),
    [
        ("qemu-system-x86_64", (), ("qemu-system-x86_64",)),
        ("firecracker", (), ("firecracker",)),
        ("runsc", ("runsc-sandbox", "--network=sandbox"), ("gVisor",)),
        ("runsc", ("runsc-sandbox", "--network=host"), ()),
        ("runsc", ("runsc-gofer",), ()),
    ],
)
def test_own_stack(view, name, arguments, stack):
    """Virtual machines and gVisor's sentry make packets that no cgroup hook sees."""
    with scratch("stack") as directory:
        program = directory / name
        shutil.copy("/bin/sh", program)
        words = [arguments[0] if arguments else name, "-c", WAIT, *arguments[1:]]
        with _waiting(words, program) as pid:
            found = facts(pid, view)

    assert found.own_stack == stack


@contextmanager
def _waiting(words: list[str], program: Path) -> Iterator[int]:
    """A shell that has begun to wait: one that still maps what it needs holds its arguments."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words, executable=program, stdin=pipe, stdout=pipe) as child:
        assert child.stdout.readline() == b"\n"
        yield child.pid
        child.kill()


def test_being_made(view):
    """While the runtime is at it, capabilities and mounts are not the sandbox's yet."""
    script = "printf 'runc:[2:INIT]' >/proc/$$/comm; echo; read x"
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        found = facts(child.pid, view)
        child.kill()

    assert found.unknown == ("the runtime is still making it",)


@pytest.mark.parametrize("name", ["runc", "crun", "youki"])
def test_being_begun(view, name):
    """So it is before the runtime has given itself another name."""
    with scratch("runtime") as directory:
        program = directory / name
        shutil.copy("/bin/sh", program)
        with _waiting(["exe", "-c", WAIT], program) as pid:
            found = facts(pid, view)

    assert found.unknown == ("the runtime is still making it",)


def test_families():
    """The families are those of this host."""
    assert look_at_host().families == unseen_families()
