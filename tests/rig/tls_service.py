# SPDX-License-Identifier: Apache-2.0
"""TLS servers in a namespace that count what arrived, on the wire and as text.

They run on threads of this process with sockets of the namespace. What is behind TLS is a Session
of rig.listeners, such as rig.tls_pool.PoolSession; :class:`TlsLayer` is one too, so TLS nests.
"""

from __future__ import annotations

import math
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rig.listeners import Session
from rig.namespace import Namespace
from rig.process import wait_until
from rig.scratch import scratch
from rig.tls import Certificate, make_certificate
from rig.tls_pool import PoolSession

NAME = "pool.example.com"
"""What the certificate is for, next to the address."""
_CHUNK_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)
_HELD_S = 45.0
"""More than the patient of rig.patient wait for what is told of a session, less than clients do."""
# The types of RFC 8446 section 5.1.
_APPLICATION_DATA = 23


@dataclass(slots=True, kw_only=True)
class Talk:
    """One connection, as its server knows it."""

    peer: tuple[str, int]
    called: str
    """The address it was called at; a server may have many."""
    wire_bytes: int = 0
    """What arrived, before anything is decrypted."""
    text: bytes = b""
    """What arrived, decrypted: exactly what the client got out."""
    records: list[tuple[int, int]] = field(default_factory=list)
    """Type and length of each TLS record that arrived whole, of the outermost TLS."""
    version: str | None = None
    """As Python names it, ``TLSv1.3``; None until the handshake is done."""
    alpn: str | None = None
    server_name: str | None = None
    """What the client asked for (SNI)."""
    end: str | None = None
    """``closed``, ``reset``, ``refused: <why>`` of a failed handshake; None as long as it lasts."""
    session: Session | None = None
    """What it talked to behind TLS."""

    @property
    def messages(self) -> list[str]:
        """The lines that arrived, if it talked to a :class:`PoolSession`."""
        assert isinstance(self.session, PoolSession)
        return self.session.messages

    @property
    def text_records(self) -> int:
        """How many records of application data arrived; in TLS 1.3 all after the hello are."""
        return sum(kind == _APPLICATION_DATA for kind, _ in self.records)


class TlsLayer:
    """TLS as a Session: gets and returns what goes over the wire, with a session behind it."""

    def __init__(self, context: ssl.SSLContext, session: Session, talk: Talk | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._session = session
        self._talk = talk
        self._is_shaken = False
        self.has_ended = False
        """The client has said that it is done (close_notify)."""

    def __call__(self, data: bytes) -> bytes:
        """Return the server's side of the stream after *data*.

        Raises:
            ssl.SSLError: It is no TLS, or none that the context permits.
        """
        self._incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            if not self._is_shaken:
                self._tls.do_handshake()
                self._is_shaken = True
                self._note()
            while text := self._tls.read(_CHUNK_BYTES):
                if self._talk:
                    self._talk.text += text
                if answer := self._session(text):
                    self._tls.write(answer)
            self.has_ended = True
        return self._outgoing.read()

    def pending(self) -> bytes:
        """Return what is to be sent although a call failed: an alert."""
        return self._outgoing.read()

    def _note(self) -> None:
        if self._talk:
            self._talk.version = self._tls.version()
            self._talk.alpn = self._tls.selected_alpn_protocol()
            self._talk.server_name = getattr(self._tls, "asked_name", None)


@dataclass(slots=True, kw_only=True)
class TlsService:
    """A listening server and what it was told."""

    address: str
    port: int
    authority: Path
    """What a client may trust."""
    talks: list[Talk] = field(default_factory=list)
    """One for each connection accepted, in order."""

    @property
    def text_bytes(self) -> int:
        """How much text arrived in all."""
        return sum(len(talk.text) for talk in self.talks)

    def clear(self) -> None:
        """Forget the connections so far."""
        self.talks.clear()

    def settle(self, connections: int = 1, timeout_s: float = 60.0) -> list[Talk]:
        """Return the talks once there are *connections* and all of them have ended.

        Raises:
            TimeoutError: They had not after *timeout_s*.
        """
        wait_until(
            lambda: len(self.talks) >= connections and all(t.end for t in self.talks),
            what=f"{self.address} port {self.port}: {connections} connections that ended",
            timeout_s=timeout_s,
        )
        return list(self.talks)


def server_context(
    certificate: Certificate,
    *,
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (
        ssl.TLSVersion.TLSv1_2,
        ssl.TLSVersion.TLSv1_3,
    ),
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """Return a server's context: lowest and highest of *versions*, what it takes of ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    context.minimum_version, context.maximum_version = versions
    if alpn:
        context.set_alpn_protocols(list(alpn))

    def remember(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        # An SSLObject knows the name it asks for, not the one it is asked for.
        tls.asked_name = name  # type: ignore[attr-defined]

    context.sni_callback = remember
    return context


@contextmanager
def tls_service(
    namespace: Namespace,
    address: str,
    port: int = 0,
    *,
    session: Callable[[], Session] = PoolSession,
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (
        ssl.TLSVersion.TLSv1_2,
        ssl.TLSVersion.TLSv1_3,
    ),
    alpn: Sequence[str] = (),
    nested: bool = False,
    resets_after_bytes: float = math.inf,
    until: Callable[[Talk], object] | None = None,
) -> Iterator[TlsService]:
    """Serve TLS at *address* (``0.0.0.0`` or ``::`` for all) and *port* (0 picks one).

    Args:
        namespace: Where it listens.
        address: IPv4 or IPv6.
        port: As said.
        session: Makes what each connection talks to behind TLS.
        versions: See :func:`server_context`.
        alpn: See :func:`server_context`.
        nested: Behind TLS there is TLS again, and the session behind that; ``Talk.text`` is then
            what came out of the outer one.
        resets_after_bytes: A connection is reset once so much text of it has arrived; with 0 it
            is reset as soon as the handshake is done.
        until: Text is answered once this holds: so long the client is there, to be looked at. It
            is not waited for for ever, and not where a client only asks whether anybody is there.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = namespace.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(512)
    with scratch("tls") as directory:
        certificate = make_certificate(directory, [NAME], [address])
        context = server_context(certificate, versions=versions, alpn=alpn)
        service = TlsService(
            address=address, port=listener.getsockname()[1], authority=certificate.authority
        )
        threads = _Threads(service)

        def converse(connection: socket.socket, talk: Talk) -> None:
            talk.session = session()
            inner = TlsLayer(context, talk.session) if nested else talk.session
            layer = TlsLayer(context, inner, talk)
            _converse(connection, talk, layer, resets_after_bytes, until)

        threads.serve(listener, converse)
        try:
            yield service
        finally:
            threads.stop()


class _Threads:
    # One accepts, and one a connection, so that none waits for another.
    def __init__(self, service: TlsService) -> None:
        self._service = service
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def serve(
        self, listener: socket.socket, converse: Callable[[socket.socket, Talk], None]
    ) -> None:
        self._listener = listener

        def run(connection: socket.socket, talk: Talk) -> None:
            try:
                converse(connection, talk)
            finally:
                with self._lock:
                    self._open.discard(connection)
                    connection.close()

        def accept() -> None:
            # Ends when stop() shuts the listener down.
            with suppress(OSError):
                while True:
                    connection, peer = listener.accept()
                    talk = Talk(peer=peer[:2], called=connection.getsockname()[0])
                    self._service.talks.append(talk)
                    with self._lock:
                        self._open.add(connection)
                    self._start(run, connection, talk)

        self._start(accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="tls", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def stop(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        # The first is the one that accepts: after it no thread is added.
        self._threads[0].join()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()


def _converse(
    connection: socket.socket,
    talk: Talk,
    layer: TlsLayer,
    resets_after_bytes: float,
    until: Callable[[Talk], object] | None,
) -> None:
    counter, is_cut = _Records(talk), False
    try:
        while not layer.has_ended and (data := connection.recv(_CHUNK_BYTES)):
            counter.take(data)
            answer = layer(data)
            if talk.version and len(talk.text) >= resets_after_bytes:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                break
            if answer and until and _is_answered_later(talk.text):
                _hold(talk, until)
            if answer and not is_cut:
                is_cut = not _sends(connection, answer)
    except ssl.SSLError as err:
        talk.end = f"refused: {err.reason}"
        with suppress(OSError):
            connection.sendall(layer.pending())
    except OSError:
        talk.end = "reset"
    else:
        talk.end = "reset" if is_cut else "closed"


def _sends(connection: socket.socket, answer: bytes) -> bool:
    # A client that was cut off may have said something after what is answered here, such as the
    # head of a request behind its handshake: that has arrived, and is still there to be read.
    try:
        connection.sendall(answer)
    except OSError:
        return False
    return True


def _is_answered_later(text: bytes) -> bool:
    # Docker's client asks by HEAD whether anybody is there, and what it wants only then. It waits
    # for 2 s, and begins another session if that was not answered.
    return bool(text) and (not text.startswith(b"HEAD ") or b"\r\n\r\nGET " in text)


def _hold(talk: Talk, until: Callable[[Talk], object]) -> None:
    # If it never holds, whoever asks for what was to come says so.
    with suppress(TimeoutError):
        wait_until(lambda: until(talk), what="leave to answer", timeout_s=_HELD_S)


class _Records:
    # Reads the heads of TLS records (RFC 8446 section 5.1) in a stream that comes in pieces.
    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._rest = b""

    def take(self, data: bytes) -> None:
        self._talk.wire_bytes += len(data)
        self._rest += data
        while len(self._rest) >= 5:
            size = int.from_bytes(self._rest[3:5])
            if len(self._rest) < 5 + size:
                break
            self._talk.records.append((self._rest[0], size))
            self._rest = self._rest[5 + size :]
