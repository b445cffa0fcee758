# SPDX-License-Identifier: Apache-2.0
"""TCP and UDP servers in a namespace that remember exactly which bytes arrived from whom.

They run on threads of this process with sockets of the namespace, so no process can be left over.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rig.namespace import Namespace
from rig.process import wait_until

Session = Callable[[bytes], bytes]
"""What one peer talks to: gets bytes as they come, returns what to answer, possibly nothing."""

_CHUNK_BYTES = 1 << 16
_BACKLOG = 512
_IPV6_RECVORIGDSTADDR = 74
_IP_RECVORIGDSTADDR = 20
_IP_PKTINFO = 8
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 8 << 20
_HEAR_OUT_S = 5.0
"""At most so long what had arrived is read at the end: some peers talk on and on."""


def echo(data: bytes) -> bytes:
    """Answer with what was said."""
    return data


def http_echo(data: bytes) -> bytes:
    """Answer a request with itself, in such a way that a client of HTTP knows where it ends."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)


def sink(_data: bytes) -> bytes:
    """Answer nothing."""
    return b""


@dataclass(slots=True, kw_only=True)
class Delivery:
    """What arrived in one TCP connection or one datagram."""

    peer: tuple[str, int]
    local: tuple[str, int]
    """The address it was sent to, also when the server listens on all of them."""
    data: bytes = b""


@dataclass(slots=True, kw_only=True)
class _Peer:
    delivery: Delivery
    session: Session


@dataclass(slots=True, kw_only=True)
class Server:
    """A listening server and what it got."""

    address: str
    port: int
    deliveries: list[Delivery] = field(default_factory=list)
    """One for each TCP connection accepted (data may be empty) or datagram received, in order."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def received(self) -> bytes:
        """Everything that arrived, joined."""
        with self.lock:
            return b"".join(delivery.data for delivery in self.deliveries)

    @property
    def connections(self) -> int:
        """How many connections were accepted, or datagrams received."""
        return len(self.deliveries)

    def wait(self, size_bytes: int, timeout_s: float = 60.0) -> bytes:
        """Return :attr:`received` once it holds *size_bytes*.

        Raises:
            TimeoutError: Less had arrived after *timeout_s*.
        """
        wait_until(
            lambda: len(self.received) >= size_bytes,
            what=f"{self.address} port {self.port}: {size_bytes} bytes",
            timeout_s=timeout_s,
        )
        return self.received

    def clear(self) -> None:
        """Forget what arrived so far."""
        with self.lock:
            self.deliveries.clear()


@contextmanager
def tcp_server(
    namespace: Namespace,
    address: str,
    port: int = 0,
    *,
    session: Callable[[], Session] = lambda: echo,
    banner: bytes = b"",
    protocol: int = 0,
) -> Iterator[Server]:
    """Serve TCP at *address* (``0.0.0.0`` or ``::`` for all) and *port* (0 picks one).

    *session* makes what each connection talks to; *banner* is said first. *protocol* may be
    ``IPPROTO_MPTCP``.
    """
    listener = namespace.call(lambda: _bind(address, port, socket.SOCK_STREAM, protocol))
    listener.listen(_BACKLOG)
    server = Server(address=address, port=listener.getsockname()[1])
    peers: dict[socket.socket, _Peer] = {}

    def serve(ready: socket.socket, selector: selectors.BaseSelector) -> None:
        if ready is listener:
            _accept(listener, selector, server, peers, session(), banner)
        else:
            _converse(ready, selector, server, peers)

    with listener:
        try:
            with _served(listener, serve):
                yield server
        finally:
            for connection in list(peers):
                connection.close()


@contextmanager
def udp_server(
    namespace: Namespace,
    address: str,
    port: int = 0,
    *,
    session: Callable[[], Session] = lambda: echo,
) -> Iterator[Server]:
    """Serve UDP at *address* (``0.0.0.0`` or ``::`` for all) and *port* (0 picks one)."""
    opened = namespace.call(lambda: _bind(address, port, socket.SOCK_DGRAM, 0))
    server = Server(address=address, port=opened.getsockname()[1])
    answer = session()

    def serve(ready: socket.socket, _selector: selectors.BaseSelector) -> None:
        data, ancillary, _, peer = ready.recvmsg(_CHUNK_BYTES, 256)
        local = _original_destination(ancillary) or (server.address, server.port)
        with server.lock:
            server.deliveries.append(Delivery(peer=peer[:2], local=local, data=data))
        reply = answer(data)
        if reply:
            with suppress(OSError):
                ready.sendmsg([reply], [_from_address(local[0])], 0, peer)

    with opened, _served(opened, serve):
        yield server


@contextmanager
def _served(
    first: socket.socket, serve: Callable[[socket.socket, selectors.BaseSelector], None]
) -> Iterator[None]:
    wake_read, wake_write = os.pipe()
    with selectors.DefaultSelector() as selector:
        selector.register(first, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        thread = threading.Thread(
            target=_loop, args=(selector, wake_read, serve), name="server", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            os.close(wake_write)
            thread.join()
            os.close(wake_read)


def _loop(
    selector: selectors.BaseSelector,
    wake: int,
    serve: Callable[[socket.socket, selectors.BaseSelector], None],
) -> None:
    end_s = None
    while True:
        ready = [key.fileobj for key, _ in selector.select()]
        if wake in ready:
            end_s = end_s or time.monotonic() + _HEAR_OUT_S
            # What had arrived by then is heard, so that it is known after the block.
            if ready == [wake] or time.monotonic() > end_s:
                return
        for each in ready:
            if isinstance(each, socket.socket):
                # A peer that resets in the midst of it is a peer's right.
                with suppress(ConnectionError):
                    serve(each, selector)


def _accept(
    listener: socket.socket,
    selector: selectors.BaseSelector,
    server: Server,
    peers: dict[socket.socket, _Peer],
    session: Session,
    banner: bytes,
) -> None:
    connection, peer = listener.accept()
    delivery = Delivery(peer=peer[:2], local=connection.getsockname()[:2])
    with server.lock:
        server.deliveries.append(delivery)
    peers[connection] = _Peer(delivery=delivery, session=session)
    selector.register(connection, selectors.EVENT_READ)
    connection.settimeout(5.0)
    if banner:
        connection.sendall(banner)


def _converse(
    connection: socket.socket,
    selector: selectors.BaseSelector,
    server: Server,
    peers: dict[socket.socket, _Peer],
) -> None:
    peer = peers[connection]
    try:
        data = connection.recv(_CHUNK_BYTES)
        with server.lock:
            peer.delivery.data += data
        reply = peer.session(data) if data else b""
        if reply:
            connection.sendall(reply)
    except OSError:
        data = b""
    if not data:
        selector.unregister(connection)
        del peers[connection]
        connection.close()


def _bind(address: str, port: int, kind: int, protocol: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_DGRAM:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        level, option = (
            (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR)
            if family == socket.AF_INET6
            else (socket.IPPROTO_IP, _IP_RECVORIGDSTADDR)
        )
        opened.setsockopt(level, option, 1)
    try:
        opened.bind((address, port))
    except OSError:
        opened.close()
        raise
    return opened


def _from_address(address: str) -> tuple[int, int, bytes]:
    # A server on all addresses must answer from the one it was asked at.
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16si", packed, 0)
    packed = socket.inet_pton(socket.AF_INET, address)
    return socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, packed, bytes(4))


def _original_destination(ancillary: list[tuple[int, int, bytes]]) -> tuple[str, int] | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_RECVORIGDSTADDR):
            return socket.inet_ntop(socket.AF_INET, data[4:8]), struct.unpack_from("!H", data, 2)[0]
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR):
            return (
                socket.inet_ntop(socket.AF_INET6, data[8:24]),
                struct.unpack_from("!H", data, 2)[0],
            )
    return None
