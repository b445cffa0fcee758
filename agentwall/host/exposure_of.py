# SPDX-License-Identifier: Apache-2.0
"""Collect the facts that ``coverage`` judges for a sandbox that a runtime has made.

``exposure`` asks what a command of our own could reach; here others have decided that, and the
host's view of the sandbox's processes tells. Nothing of the sandbox is opened or followed: links,
mount tables and status files of /proc only, each bounded, none of which can make the reader wait;
and arguments, through ``argv``, which does not wait long.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.host import capabilities
from agentwall.host.argv import ArgvReader
from agentwall.host.coverage import Facts
from agentwall.host.deputies import DEPUTIES
from agentwall.host.exposure import HOST_SOCKETS
from agentwall.host.mountinfo import Mount, parse_mounts, read_mounts
from agentwall.host.socket_families import unseen_families

CONTROL_SOCKETS = ("/run/agentwall/control.sock",)
_USER_SOCKETS = ("docker.sock", "podman/podman.sock", "bus", "systemd/private")
_MAX_USERS = 64
_MAX_PROCESSES = 256
_MAX_STATUS_BYTES = 1 << 20
"""The kernel lists up to 65 536 groups before the capabilities."""
_MAX_MOUNT_BYTES = 1 << 20
_MAX_LISTED = 8
_ROOTLESS = frozenset({"NET_RAW", "NET_ADMIN"})
"""What counts in a user namespace of its own: the others hold there over nothing of the host."""
_MAKERS = frozenset({"runc", "crun", "youki"})
"""Programs that are in a sandbox's cgroup while they make it. runc's own copy of itself lies on a
mount that is gone, and is ``/``, or in memory."""
_MAKING = "runc:["
"""How runc names its processes on the way."""
_VMMS = ("qemu-system-", "firecracker", "cloud-hypervisor", "crosvm", "stratovirt", "dragonball")
_SENTRY = b"runsc-sandbox"


_CommandLine = Callable[[int], bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A unix socket of this host, and where its file system has it."""

    path: str
    device: str
    """``major:minor``."""
    inner: str
    """Path in that file system, whatever it is mounted on."""
    deputy: str | None
    """Name of the service, if it is one of ``deputies``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What of this host a sandbox might share: looked up once for many of them."""

    namespaces: dict[str, str]
    """Those of the host by kind, ``net:[4026531840]``; empty where nobody may be asked."""
    services: tuple[Service, ...]
    families: tuple[str, ...]


def look_at_host(control_sockets: Iterable[str] = CONTROL_SOCKETS) -> HostView:
    """Look at this host; some milliseconds, and again when services may have come.

    Raises:
        HostError: /proc is not readable.
    """
    return HostView(
        # Process 1 may have capabilities that the caller lacks; process 2 of a host is kthreadd.
        namespaces=_namespaces(1) or _namespaces(2) or {},
        services=tuple(_services(read_mounts(), control_sockets)),
        families=unseen_families(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarding:
    """What the caller knows of the wall around the sandbox."""

    cgroup: str
    """As /proc/PID/cgroup spells it."""
    missing_hooks: tuple[str, ...] = ()
    loopback_resolvers: tuple[str, ...] = ()
    has_belt: bool = False
    sockets_outside: tuple[str, ...] = ()


def facts_of(pids: Collection[int], view: HostView, guarding: Guarding, argv: ArgvReader) -> Facts:
    """Return the facts for a sandbox whose processes are *pids*, as far as they can be known.

    Args:
        pids: In the caller's PID namespace; the first 256 are looked at.
        view: See :func:`look_at_host`.
        guarding: What the wall is like.
        argv: Of the calling thread.
    """
    seen = _look_at(pids, lambda pid: argv.read(pid, guarding.cgroup))
    if not seen.looked_at:
        seen.unknown.append("no process that could be looked at")
    hosts = view.namespaces
    reached = [service for service in view.services if _reaches(seen.mounts, service)]
    return Facts(
        is_attached=True,
        missing_hooks=guarding.missing_hooks,
        has_own_netns=_all_own("net", seen, hosts),
        has_own_pidns=_all_own("pid", seen, hosts),
        kept_capabilities=_kept(seen, hosts),
        kept_descriptors=(),
        host_sockets=tuple(s.path for s in reached if s.deputy is None),
        filters_families=not view.families,
        has_vsock="vsock" in view.families,
        can_type_for_others=False,
        kept_deputies=tuple(f"{s.path} ({s.deputy})" for s in reached if s.deputy is not None),
        loopback_resolvers=guarding.loopback_resolvers,
        own_stack=tuple(sorted(seen.stacks))[:_MAX_LISTED],
        has_belt=guarding.has_belt,
        kernel_filesystems=tuple(_kernel_filesystems(seen.mounts, guarding.cgroup))[:_MAX_LISTED],
        sockets_outside=guarding.sockets_outside,
        unseen_families=view.families,
        family_filter="no seccomp filter"
        if seen.is_unfiltered
        else "the rules of its seccomp filter are not known",
        unknown=tuple(seen.unknown),
    )


@dataclass(slots=True)
class _Seen:
    """What was found in the processes of one sandbox, together."""

    looked_at: int = 0
    namespaces: dict[str, set[str]] = field(default_factory=dict)
    capabilities: dict[str, int] = field(default_factory=dict)
    """The masks that can be reached, by user namespace."""
    mounts: list[Mount] = field(default_factory=list)
    stacks: set[str] = field(default_factory=set)
    is_unfiltered: bool = False
    is_being_made: bool = False
    unknown: list[str] = field(default_factory=list)


def _look_at(pids: Collection[int], command_line: _CommandLine) -> _Seen:
    seen = _Seen()
    gone = 0
    for pid in list(pids)[:_MAX_PROCESSES]:
        status = _status(pid)
        if status.get("State", "").startswith(("Z", "X")):
            continue  # Dead: it holds nothing any more.
        spaces = _namespaces(pid) if status else None
        if not spaces or not _take(seen, pid, status, spaces, command_line):
            gone += 1
            continue
        seen.looked_at += 1
    if gone:
        seen.unknown.append(f"processes that had gone or are not readable: {gone}")
    if seen.is_being_made:
        # Its capabilities are still the runtime's, and its mounts the host's and its own.
        seen.unknown.append("the runtime is still making it")
    if len(pids) > _MAX_PROCESSES:
        seen.unknown.append(f"processes not looked at: {len(pids) - _MAX_PROCESSES}")
    return seen


def _take(
    seen: _Seen,
    pid: int,
    status: dict[str, str],
    spaces: dict[str, str],
    command_line: _CommandLine,
) -> bool:
    try:
        reachable = int(status["CapPrm"], 16) | int(status["CapEff"], 16)
        if status["NoNewPrivs"] != "1":
            # A file with capabilities, or of another user, may give all that is not ruled out.
            reachable |= int(status["CapBnd"], 16)
        is_unfiltered = status["Seccomp"] != "2"
        mounts = () if spaces["mnt"] in seen.namespaces.get("mnt", ()) else _mounts_of(pid)
        program = os.readlink(f"/proc/{pid}/exe")
        stack = _stack_of(pid, program, command_line)
        # What was read is of this process only if its namespaces are still the same.
        if _namespaces(pid) != spaces:
            return False
    except (OSError, KeyError, ValueError):
        return False
    for kind, name in spaces.items():
        seen.namespaces.setdefault(kind, set()).add(name)
    user = spaces["user"]
    seen.capabilities[user] = seen.capabilities.get(user, 0) | reachable
    seen.is_unfiltered |= is_unfiltered
    seen.is_being_made |= _is_maker(status.get("Name", ""), program)
    seen.mounts += mounts
    if stack:
        seen.stacks.add(stack)
    return True


def _read(path: str, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while len(found) < size and (more := os.read(descriptor, size - len(found))):
            found += more
        return found
    finally:
        os.close(descriptor)


def _status(pid: int) -> dict[str, str]:
    try:
        text = _read(f"/proc/{pid}/status", _MAX_STATUS_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    # A line end in a name is escaped by the kernel.
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _namespaces(pid: int) -> dict[str, str] | None:
    try:
        return {
            kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "pid", "user", "mnt")
        }
    except OSError:
        return None


def _mounts_of(pid: int) -> tuple[Mount, ...]:
    raw = _read(f"/proc/{pid}/mountinfo", _MAX_MOUNT_BYTES)
    if len(raw) >= _MAX_MOUNT_BYTES:
        raise ValueError
    return parse_mounts(raw.decode("utf-8", "surrogateescape"))


def _is_maker(name: str, program: str) -> bool:
    return (
        name.startswith(_MAKING)
        or program == "/"
        or os.path.basename(program) in _MAKERS
        or program.startswith("/memfd:runc")
    )


def _stack_of(pid: int, program: str, command_line: _CommandLine) -> str | None:
    """Return what of a process makes packets that no hook sees, a virtual machine or gVisor.

    Raises:
        OSError: It has ended, or its arguments were not to be had in time.
    """
    name = os.path.basename(program)
    if name.startswith(_VMMS):
        return name
    if name.startswith(("runsc", "exe", "memfd:")):
        line = command_line(pid)
        if line is None:
            raise TimeoutError
        words = line.split(b"\0")
        # With --network=host it makes sockets of this host, which hooks do see.
        if words[0].endswith(_SENTRY) and b"--network=host" not in words:
            return "gVisor"
    return None


def _all_own(kind: str, seen: _Seen, hosts: dict[str, str]) -> bool:
    found = seen.namespaces.get(kind, set())
    return bool(found) and kind in hosts and hosts[kind] not in found


def _kept(seen: _Seen, hosts: dict[str, str]) -> tuple[str, ...]:
    kept: set[str] = set()
    for user, reachable in seen.capabilities.items():
        is_own = "user" in hosts and user != hosts["user"]
        counted = _ROOTLESS if is_own else capabilities.DROPPED
        kept |= counted.intersection(capabilities.names(reachable))
    return tuple(sorted(kept))


def _reaches(mounts: Iterable[Mount], service: Service) -> bool:
    # By file system, not by path: a socket may be mounted under any name, and a link inside the
    # sandbox leads a path elsewhere.
    return any(
        mount.device == service.device and _holds(mount.root, service.inner) for mount in mounts
    )


def _holds(root: str, path: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _kernel_filesystems(mounts: Iterable[Mount], cgroup: str) -> Iterator[str]:
    for mount in mounts:
        if mount.fstype == "bpf":
            yield f"bpf on {mount.point}"
        # Below its own cgroup it may do as it likes: whatever it makes there inherits the wall.
        elif (
            mount.fstype == "cgroup2"
            and "ro" not in mount.options
            and not _holds(cgroup, mount.root)
        ):
            yield f"cgroup2 on {mount.point}, writable"


def _services(mounts: tuple[Mount, ...], control_sockets: Iterable[str]) -> Iterator[Service]:
    named: dict[str, str | None] = dict.fromkeys((*HOST_SOCKETS, *control_sockets))
    named |= {deputy.socket: deputy.name for deputy in DEPUTIES}
    for user in sorted(Path("/run/user").glob("*"))[:_MAX_USERS]:
        named |= dict.fromkeys(f"{user}/{name}" for name in _USER_SOCKETS)
    found: dict[str, Service] = {}
    for path, deputy in named.items():
        real = os.path.realpath(path)
        mount = _mount_of(mounts, real)
        if mount is not None and _is_socket(real):
            below = real.removeprefix(mount.point.rstrip("/"))
            inner = f"{mount.root.rstrip('/')}{below}"
            found[real] = Service(path=path, device=mount.device, inner=inner, deputy=deputy)
    yield from found.values()


def _mount_of(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    holding = [mount for mount in mounts if _holds(mount.point, path)]
    # The last one on a point hides those before it.
    return max(reversed(holding), key=lambda mount: len(mount.point), default=None)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
