# SPDX-License-Identifier: Apache-2.0
"""Collect the facts that ``coverage`` judges: what of the host a command could reach."""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentwall.host.coverage import Facts
from agentwall.host.deputies import deputies_for, is_of, kept_deputies
from agentwall.host.descriptors import Inherited
from agentwall.host.identity import Identity
from agentwall.host.seccomp import knows_machine

HOST_SOCKETS = (
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
    "/run/snapd.socket",
    "/run/libvirt/libvirt-sock",
)
"""Of services that start programs, or send packets, outside the cgroup on request; ``deputies`` has
those that ``run`` leaves out."""
_USER_SOCKETS = ("docker.sock", "podman/podman.sock")
"""The same below /run/user/<uid>."""
_ENVIRONMENT_SOCKETS = ("SSH_AUTH_SOCK", "DOCKER_HOST", "DBUS_SESSION_BUS_ADDRESS")

_GET_LOCAL_CID = 0x7B9
"""``IOCTL_VM_SOCKETS_GET_LOCAL_CID``, ``include/uapi/linux/vm_sockets.h``."""
_NO_CID = 0xFFFFFFFF
_LOOPBACK_CID = 1
_CONNECT_TIMEOUT_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """What the caller decided about the sandbox."""

    identity: Identity
    kept_capabilities: tuple[str, ...]
    families: frozenset[int] | None
    """The only socket families it may use, where a filter can be made; None: all."""
    inherited: tuple[Inherited, ...]
    missing_hooks: tuple[str, ...]
    environment: Mapping[str, str]
    kept_sockets: tuple[str, ...] = ()
    """Of deputies, that stay within reach."""
    loopback_resolvers: tuple[str, ...] = ()


def collect_facts(arrangement: Arrangement) -> Facts:
    """Look at this host and return the facts for a sandbox made by ``launch``.

    Raises:
        HostError: One of the sockets to keep is of no deputy.
    """
    environment = arrangement.environment
    deputies = deputies_for(arrangement.identity.uid)
    kept = kept_deputies(deputies, arrangement.kept_sockets)
    can_filter = knows_machine(platform.machine())
    return Facts(
        is_attached=True,
        missing_hooks=arrangement.missing_hooks,
        has_own_netns=has_own_netns(),
        has_own_pidns=True,
        kept_capabilities=arrangement.kept_capabilities,
        kept_descriptors=tuple(
            f"{found.number} ({found.what})" for found in arrangement.inherited if found.leads_out
        ),
        host_sockets=tuple(
            path
            for path in reachable_sockets(arrangement.identity, environment)
            if not any(is_of(path, deputy) for deputy in deputies)
        ),
        filters_families=can_filter and arrangement.families is not None,
        has_vsock=has_vsock(),
        can_type_for_others=not can_filter
        and any(found.what == "terminal" for found in arrangement.inherited),
        kept_deputies=tuple(f"{deputy.socket} ({deputy.name})" for deputy in kept),
        loopback_resolvers=arrangement.loopback_resolvers,
    )


def has_own_netns() -> bool:
    """Say whether the caller's network namespace is another than that of process 1.

    Where neither process 1 (which may have capabilities that the caller lacks) nor kthreadd, which
    is process 2 of the host, may be asked, it does not count as the caller's own.
    """
    own = os.stat("/proc/self/ns/net")
    for pid in (1, 2):
        try:
            first = os.stat(f"/proc/{pid}/ns/net")
        except OSError:
            continue
        return (own.st_dev, own.st_ino) != (first.st_dev, first.st_ino)
    return False


def reachable_sockets(identity: Identity, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the sockets of host services that *identity* may connect to and that are served."""
    candidates = [*HOST_SOCKETS, *_sockets_of_user(identity.uid), *_sockets_named(environment)]
    distinct = {os.path.realpath(path): path for path in reversed(candidates)}
    return tuple(
        sorted(path for path in distinct if _may_connect(path, identity) and _is_served(path))
    )


def _sockets_of_user(uid: int) -> Iterable[str]:
    return (f"/run/user/{uid}/{name}" for name in _USER_SOCKETS)


def _sockets_named(environment: Mapping[str, str]) -> Iterable[str]:
    for name in _ENVIRONMENT_SOCKETS:
        value = environment.get(name, "")
        path = value.removeprefix("unix:path=").removeprefix("unix://").split(",")[0]
        if path.startswith("/"):
            yield path


def _may_connect(path: str, identity: Identity) -> bool:
    """Say whether file modes let *identity* write to the socket at *path* (unix(7))."""
    try:
        return _permits(Path(path), identity, stat.S_IWOTH) and all(
            _permits(parent, identity, stat.S_IXOTH) for parent in Path(path).parents
        )
    except OSError:
        return False


def _permits(path: Path, identity: Identity, bit: int) -> bool:
    found = path.stat()
    if identity.uid == 0:
        return True
    if found.st_uid == identity.uid:
        return bool(found.st_mode & bit << 6)
    if found.st_gid in (identity.gid, *identity.groups):
        return bool(found.st_mode & bit << 3)
    return bool(found.st_mode & bit)


def _is_served(path: str) -> bool:
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # A datagram socket, or a full backlog: somebody is there.
            return True
    return True


def has_vsock() -> bool:
    """Say whether this kernel carries AF_VSOCK to another machine or to this one's host."""
    try:
        descriptor = os.open("/dev/vsock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        answer = fcntl.ioctl(descriptor, _GET_LOCAL_CID, struct.pack("=I", _NO_CID))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    cid: int = struct.unpack("=I", answer)[0]
    return cid not in (_NO_CID, _LOOPBACK_CID) or Path("/sys/module/vhost_vsock").is_dir()
