# SPDX-License-Identifier: Apache-2.0
"""The belt: at which interfaces refused DNS questions are answered with "no such name".

``bpf/belt.bpf.c`` gives the answers; egress marks a question for it only where ``aw_belts`` lists
the interface, so an entry is there no longer than the link. Needs tcx (Linux 6.6 and later).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from agentwall.kernel import abi, libbpf
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.libbpf import AttachType, check
from agentwall.kernel.links import Link, pin
from agentwall.kernel.objects import Program

BELT = "aw_belt"
"""The program's name; it stands at interfaces, not at a cgroup."""
PIN_PREFIX = "tcx-belt-"
"""Sorts behind the pins of cgroup links, so that the belt is the last that is cleared away."""

# include/uapi/linux/bpf.h, if_arp.h, sockios.h
_BPF_F_BEFORE = 1 << 3
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
_SIOCGIFHWADDR = 0x8927
_VALUE = struct.Struct("=I")


class _LinkCreateOptions(ctypes.Structure):
    # struct bpf_link_create_opts up to flags, libbpf 1.1 src/bpf.h
    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("_pad", ctypes.c_uint32))


class _TcxLinkInfo(ctypes.Structure):
    # struct bpf_link_info up to the tcx member of its union, include/uapi/linux/bpf.h
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """An interface at which a belt can stand."""

    name: str
    ifindex: int
    is_loopback: bool


def interfaces() -> list[Interface]:
    """Return the Ethernet and loopback interfaces of this network namespace, up or not, by index.

    The belt does not read frames of other kinds, such as those of tun or WireGuard.
    """
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for ifindex, name in sorted(socket.if_nameindex()):
            try:
                answer = fcntl.ioctl(asked, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
            except OSError:
                continue  # it has gone, or was renamed, meanwhile
            kind = struct.unpack_from("=16xH", answer)[0]
            if kind in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK):
                is_loopback = kind == _ARPHRD_LOOPBACK
                found.append(Interface(name=name, ifindex=ifindex, is_loopback=is_loopback))
    return found


def new_mark() -> int:
    """Return a secret for ``aw_belt_mark``: 1 to 0xffffffff."""
    return int.from_bytes(os.urandom(4), "big") or 1


class Belt:
    """One loaded ``aw_belt``, and the interfaces of one network namespace that it stands at."""

    def __init__(
        self, program: Program, belts: BpfMap, *, netns: int, pin_dir: Path | None = None
    ) -> None:
        """Nothing is attached yet.

        Args:
            program: ``aw_belt``, loaded.
            belts: The map ``aw_belts`` of the same object.
            netns: Cookie of the network namespace that the caller is in when it attaches.
            pin_dir: Where to pin links. A pinned wall needs that: egress would go on to mark
                questions when the belt has gone with its maker, and they would leave.
        """
        self._program = program
        self._belts = belts
        self._netns = netns
        self._pin_dir = pin_dir
        self._links: dict[int, Link] = {}

    def attach(self, interface: Interface) -> Link:
        """Put the belt at an interface, before whatever stands there.

        Returns:
            The link, which stays the belt's to close.

        Raises:
            KernelError: The interface has gone, or there is no tcx; egress refuses there as before.
        """
        ifindex = interface.ifindex
        options = _LinkCreateOptions(sz=ctypes.sizeof(_LinkCreateOptions), flags=_BPF_F_BEFORE)
        what = f"attach {BELT} to {interface.name}"
        create = libbpf.library().bpf_link_create
        made = create(self._program.fd, ifindex, AttachType.TCX_EGRESS, ctypes.byref(options))
        self._links[ifindex] = link = Link(check(made, what), what)
        try:
            if self._pin_dir:
                path = self._pin_path(self._pin_dir, ifindex)
                path.unlink(missing_ok=True)  # of a wall that this one takes the place of
                pin(link.fd, path)
            self._belts.update(self._key(ifindex), _VALUE.pack(_value(interface)))
        except BaseException:
            self._forget(ifindex)
            raise
        return link

    def standing(self) -> list[int]:
        """Return the indexes of the interfaces it stands at, and forget those that have gone.

        Call it now and then: should another interface get the index of one that was removed,
        which happens only where somebody chooses it, then egress must not count on a belt there.
        """
        for ifindex in [found for found, link in self._links.items() if not _stands_at(link)]:
            self._forget(ifindex)
        return sorted(self._links)

    def close(self) -> None:
        """Take it off everywhere; after the sandbox has ended, or its questions would leave."""
        for ifindex in list(self._links):
            self._forget(ifindex)

    # The entry goes first: egress must not mark what nobody would answer.
    def _forget(self, ifindex: int) -> None:
        self._belts.delete(self._key(ifindex))
        if self._pin_dir:
            self._pin_path(self._pin_dir, ifindex).unlink(missing_ok=True)
        self._links.pop(ifindex).close()

    def _key(self, ifindex: int) -> bytes:
        return bytes(abi.BeltKey(netns=self._netns, ifindex=ifindex))

    def _pin_path(self, pin_dir: Path, ifindex: int) -> Path:
        return pin_dir / f"{PIN_PREFIX}{self._netns:x}-{ifindex}"


def _value(interface: Interface) -> int:
    # An answer from 127.0.0.1 that is routed anew, as one to a translated question must be, passes
    # lo only with this sysctl (Linux net/ipv4/route.c, ip_route_input_slow).
    translated = not interface.is_loopback or _is_set("all") or _is_set(interface.name)
    return abi.BELT_STANDS | (abi.BELT_TRANSLATED if translated else 0)


def _is_set(name: str) -> bool:
    path = Path("/proc/sys/net/ipv4/conf", name, "route_localnet")
    try:
        return path.read_text("ascii").strip() == "1"
    except OSError:
        return False  # a container may hide it; then such questions stay refused


def _stands_at(link: Link) -> int:
    """Return where a tcx link stands; 0 once its interface has gone."""
    info = _TcxLinkInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    read = libbpf.library().bpf_obj_get_info_by_fd
    check(read(link.fd, ctypes.byref(info), ctypes.byref(size)), f"{BELT}: link info")
    return int(info.ifindex)
