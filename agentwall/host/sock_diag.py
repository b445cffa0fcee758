# SPDX-License-Identifier: Apache-2.0
"""Lists and ends sockets of other processes: SOCK_DESTROY of the kernel's socket monitor.

The application gets ECONNABORTED, and a TCP peer an RST. ``include/uapi/linux/inet_diag.h`` and
``include/uapi/linux/sock_diag.h`` have the layouts. Only sockets of one network namespace are
found.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agentwall.errors import HostError
from agentwall.host import libc
from agentwall.net.endpoint import Endpoint, IPAddress, canonical, key_bytes

_CLONE_NEWNET = 0x40000000
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
"""``struct nlmsghdr``."""
_ERROR = struct.Struct("=i")
_REQUEST = struct.Struct("=BBBxI")
"""``struct inet_diag_req_v2`` up to its id."""
_ID = struct.Struct("=2s2s16s16sIII")
"""``struct inet_diag_sockid``: the halves of its cookie go low before high."""
_ID_AT = 4
"""Where ``struct inet_diag_msg`` has its id."""
_END = struct.Struct("=60xIII")
"""``struct inet_diag_msg`` from idiag_wqueue, bytes that the peer has not acknowledged, to
idiag_uid and idiag_inode."""
_ATTRIBUTES_AT = 72
"""Where ``struct inet_diag_msg`` ends and attributes begin."""
_ATTRIBUTE = struct.Struct("=HH")
"""``struct nlattr``."""
_CGROUP_ID = 21
"""INET_DIAG_CGROUP_ID (since 5.8): a u64."""
_ANY_STATE = 0xFFFFFFFF
_RECEIVE_BYTES = 1 << 16
_TIMEOUT_S = 2.0
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_GONE = (errno.ENOENT, errno.ESTALE)
"""Nothing has these addresses, or something else has."""
_SO_COOKIE = 57
"""``include/uapi/asm-generic/socket.h``; Python has no name for it."""
_LOW = 0xFFFFFFFF
LISTEN = 10
"""``TCP_LISTEN``, ``include/net/tcp_states.h``."""
_LISTED = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_RAW)
"""Ping sockets are in no list of the monitor; raw ones where it has CONFIG_INET_RAW_DIAG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketSeen:
    """One socket of IPv4 or IPv6, as the socket monitor lists it."""

    protocol: int
    """IANA number; of a raw socket the one it was made for."""
    local: Endpoint
    remote: Endpoint | None
    """None while it is connected to nothing."""
    state: int
    """``TCP_*``: 1 established, 7 closed or unconnected, 10 listening."""
    cookie: int
    inode: int
    """As ``/proc/PID/fd`` has it; 0 once no process holds it, or none has accepted it yet."""
    cgroup: int
    """Id of the cgroup it was made in, which never changes; 0 where the kernel does not tell."""
    uid: int
    is_raw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    family: int
    protocol: int
    identity: bytes
    """``struct inet_diag_sockid``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    wanted: _Wanted
    cgroup: int
    """Its id; 0 where that is not told."""
    unsent: int
    state: int
    uid: int
    inode: int


class SockDiag:
    """A socket to the kernel's socket monitor, for one network namespace."""

    def __init__(self, pid: int | None = None) -> None:
        """Open it.

        Args:
            pid: Sockets of this process's network namespace rather than of the caller's.

        Raises:
            HostError: The kernel has no socket monitor, or the process has gone.
        """
        try:
            self._netlink = _open() if pid is None else _open_in(f"/proc/{pid}/ns/net")
            self._netlink.settimeout(_TIMEOUT_S)
        except OSError as err:
            raise HostError(f"socket monitor: {err.strerror}") from err
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._netlink.close()

    def destroy(self, protocol: int, local: Endpoint, remote: Endpoint, cookie: int) -> bool:
        """End one socket, be it of IPv4, IPv6, or of IPv6 with IPv4 in it.

        Args:
            protocol: IANA number: TCP or UDP.
            local: The socket's own end.
            remote: The peer.
            cookie: Of the socket; no other is ended, whatever has its addresses by now.

        Returns:
            False if there is no such socket, any more or in this network namespace.

        Raises:
            HostError: The kernel cannot (CONFIG_INET_DIAG_DESTROY), does not answer, or refuses.
        """
        try:
            if any(map(self._destroy, _by_address(protocol, local, remote, cookie))):
                return True
        except OSError as err:
            raise HostError(f"socket monitor: {err.strerror or err}") from err
        # Bound to a device, to a link, or to another address than the packet's: addresses alone do
        # not lead there.
        return self.destroy_by_cookie(protocol, cookie, local.port)

    def destroy_by_cookie(self, protocol: int, cookie: int, port: int = 0) -> bool:
        """As :meth:`destroy`, looking through all sockets, or those with this local port."""
        try:
            return any(map(self._destroy, self._by_cookie(protocol, cookie, port)))
        except OSError as err:
            raise HostError(f"socket monitor: {err.strerror or err}") from err

    def list_in(self, cgroups: Collection[int] | None) -> list[SocketSeen]:
        """Return the sockets that were made in these cgroups: TCP, UDP, and raw where told.

        Args:
            cgroups: Their ids: inode numbers of their directories; None: of whichever.

        Raises:
            HostError: The kernel does not answer, or refuses.
        """
        try:
            return [
                _seen(found)
                for protocol in _LISTED
                for found in self._sockets(protocol)
                if cgroups is None or found.cgroup in cgroups
            ]
        except OSError as err:
            raise HostError(f"socket monitor: {err.strerror or err}") from err

    def unsent_in(self, cgroups: Collection[int]) -> int:
        """Return how many TCP sockets of these cgroups have something to send, or to send again.

        Args:
            cgroups: Their ids: inode numbers of their directories.

        Raises:
            HostError: As :meth:`destroy`.
        """
        try:
            return len(self._unsent_in(cgroups))
        except OSError as err:
            raise HostError(f"socket monitor: {err.strerror or err}") from err

    def destroy_unsent_in(self, cgroups: Collection[int]) -> None:
        """End the TCP sockets that :meth:`unsent_in` counts, those of dead processes included.

        Raises:
            HostError: As :meth:`destroy`.
        """
        try:
            for wanted in self._unsent_in(cgroups):
                self._destroy(wanted)
        except OSError as err:
            raise HostError(f"socket monitor: {err.strerror or err}") from err

    def _unsent_in(self, cgroups: Collection[int]) -> list[_Wanted]:
        found = self._sockets(socket.IPPROTO_TCP)
        return [each.wanted for each in found if each.cgroup in cgroups and each.unsent]

    def _destroy(self, wanted: _Wanted) -> bool:
        code = next(self._ask(_SOCK_DESTROY, _NLM_F_ACK, wanted), (errno.EIO, b""))[0]
        if code == errno.EOPNOTSUPP:
            raise HostError("ending sockets: expected a kernel with CONFIG_INET_DIAG_DESTROY")
        if code and code not in _GONE:
            raise OSError(code, os.strerror(code))
        return not code

    def _by_cookie(self, protocol: int, cookie: int, port: int) -> Iterator[_Wanted]:
        for found in self._sockets(protocol, port):
            if _cookie_of(found.wanted.identity) == cookie:
                yield found.wanted

    def _sockets(self, protocol: int, port: int = 0) -> Iterator[_Found]:
        # All fields that are 0 hold any socket.
        identity = port.to_bytes(2).ljust(_ID.size, b"\0")
        for family in _FAMILIES:
            everything = _Wanted(family=family, protocol=protocol, identity=identity)
            # To the end of the answer, before the next question.
            for _, message in list(self._ask(_SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, everything)):
                if len(message) < _ATTRIBUTES_AT:
                    continue
                own = message[_ID_AT : _ID_AT + _ID.size]
                unsent, uid, inode = _END.unpack_from(message)
                yield _Found(
                    wanted=_Wanted(family=message[0], protocol=protocol, identity=own),
                    cgroup=_cgroup_of(message),
                    unsent=unsent,
                    state=message[1],
                    uid=uid,
                    inode=inode,
                )

    def _ask(self, kind: int, flags: int, wanted: _Wanted) -> Iterator[tuple[int, bytes]]:
        """Yield the errno and the content of each message of the answer."""
        self._sequence += 1
        body = _REQUEST.pack(wanted.family, wanted.protocol, 0, _ANY_STATE) + wanted.identity
        size = _HEADER.size + len(body)
        header = _HEADER.pack(size, kind, _NLM_F_REQUEST | flags, self._sequence, 0)
        self._netlink.send(header + body)
        while True:
            answer = self._netlink.recv(_RECEIVE_BYTES)
            for code, message, is_last in _messages(answer, self._sequence):
                if not is_last or code or flags == _NLM_F_ACK:
                    yield code, message
                if is_last:
                    return


def _open() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG)


def _open_in(namespace: str) -> socket.socket:
    # On a thread of its own: the calling one stays where it is.
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(libc.setns, descriptor, _CLONE_NEWNET).result()
            return thread.submit(_open).result()
    finally:
        os.close(descriptor)


def _messages(answer: bytes, sequence: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield errno, content, and whether nothing follows."""
    at = 0
    while at + _HEADER.size <= len(answer):
        size, kind, _, number, _ = _HEADER.unpack_from(answer, at)
        if size < _HEADER.size:
            return
        message = answer[at + _HEADER.size : at + size]
        at += -(-size // 4) * 4
        # What was asked before, and given up, may still be answered.
        if number != sequence:
            continue
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            code = -_ERROR.unpack_from(message)[0] if len(message) >= _ERROR.size else 0
            yield code, b"", True
        else:
            yield 0, message, False


def _by_address(protocol: int, local: Endpoint, remote: Endpoint, cookie: int) -> Iterator[_Wanted]:
    is_v4 = local.address.version == 4 and remote.address.version == 4
    for family in _FAMILIES if is_v4 else _FAMILIES[1:]:
        identity = _ID.pack(
            local.port.to_bytes(2),
            remote.port.to_bytes(2),
            _address(local.address, family),
            _address(remote.address, family),
            0,
            cookie & _LOW,
            cookie >> 32,
        )
        yield _Wanted(family=family, protocol=protocol, identity=identity)


# IPv4 stands in the first of four words; in IPv6 as ::ffff:a.b.c.d.
def _address(address: IPAddress, family: int) -> bytes:
    if family == socket.AF_INET:
        return address.packed.ljust(16, b"\0")
    return key_bytes(address)


def _cgroup_of(message: bytes) -> int:
    at = _ATTRIBUTES_AT
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == _CGROUP_ID:
            return int.from_bytes(message[at + _ATTRIBUTE.size : at + size], sys.byteorder)
        if size < _ATTRIBUTE.size:
            break
        at += -(-size // 4) * 4
    return 0


def _seen(found: _Found) -> SocketSeen:
    local_port, remote_port, local, remote, _, low, high = _ID.unpack(found.wanted.identity)
    protocol = found.wanted.protocol
    is_raw = protocol == socket.IPPROTO_RAW
    if is_raw:
        # A raw socket has its protocol where others have their port.
        protocol, local_port, remote_port = int.from_bytes(local_port), bytes(2), bytes(2)
    peer = _read_address(remote, found.wanted.family)
    is_connected = bool(int(peer)) or remote_port != bytes(2)
    return SocketSeen(
        protocol=protocol,
        local=Endpoint(
            canonical(_read_address(local, found.wanted.family)),
            int.from_bytes(local_port),
            protocol,
        ),
        remote=Endpoint(canonical(peer), int.from_bytes(remote_port), protocol)
        if is_connected
        else None,
        state=found.state,
        cookie=high << 32 | low,
        inode=found.inode,
        cgroup=found.cgroup,
        uid=found.uid,
        is_raw=is_raw,
    )


def _read_address(raw: bytes, family: int) -> IPAddress:
    return IPv4Address(raw[:4]) if family == socket.AF_INET else IPv6Address(raw)


def _cookie_of(identity: bytes) -> int:
    *_, low, high = _ID.unpack(identity)
    return int(high) << 32 | int(low)


def try_destroying() -> None:
    """End a socket of each kind, made for that: nothing leaves them.

    Raises:
        HostError: That does not work, and why.
    """
    monitor = SockDiag()
    try:
        for kind, protocol in (
            (socket.SOCK_STREAM, socket.IPPROTO_TCP),
            (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        ):
            with socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC) as victim:
                victim.bind(("127.0.0.1", 0))
                if kind == socket.SOCK_STREAM:
                    victim.listen()
                if not monitor.destroy_by_cookie(protocol, cookie_of(victim)):
                    raise HostError("ending sockets: one that was made for it was not found")
    except OSError as err:
        raise HostError(f"ending sockets: {err.strerror or err}") from err
    finally:
        monitor.close()


def cookie_of(sock: socket.socket) -> int:
    """Return the number by which the kernel, and its events, know *sock*."""
    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    return int.from_bytes(raw, sys.byteorder)
