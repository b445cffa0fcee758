# SPDX-License-Identifier: Apache-2.0
"""The process behind :mod:`rig.spoken`: calls of ``spoken_library.c``, as lines of JSON ask for.

``[THREAD, CALL, ARGUMENT...]`` in, the value out. Thread 0 is the first; others are made as they
are named. Octets are text in Latin-1.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ROOM_BYTES = 1 << 20
TIMEOUT_S = 60.0


class Speaker:
    """One method a call."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.spoken_new.restype = ctypes.c_void_p
        self._library.spoken_take.restype = ctypes.c_size_t
        self._connections: list[ctypes.c_void_p] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket()

    def pid(self) -> int:
        return os.getpid()

    def hello(self, octets: str) -> None:
        """Have every handshake from now on begin with a ClientHello of these octets."""
        self._library.spoken_set_hello(octets.encode("latin-1"), ctypes.c_size_t(len(octets)))

    def _connect(self, address: str, port: int) -> socket.socket:
        sock = socket.create_connection((address, port), timeout=TIMEOUT_S)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def open(self, address: str, port: int, *, is_held: bool = False) -> int:
        """Connect, and make a connection of the library for it."""
        sock = self._connect(address, port)
        self._sockets.append(sock)
        made = self._library.spoken_new(-1 if is_held else sock.fileno())
        self._connections.append(ctypes.c_void_p(made))
        return len(self._sockets) - 1

    def open_held(self, address: str, port: int) -> int:
        """As open; records wait until they are sent by :meth:`send`."""
        return self.open(address, port, is_held=True)

    def renew(self, number: int, address: str, port: int) -> None:
        """Use the library's connection for another flow."""
        self._sockets[number] = self._connect(address, port)
        self._library.spoken_renew(self._connections[number], self._sockets[number].fileno())

    def place(self, number: int) -> int:
        """Return where the connection lies."""
        return self._connections[number].value or 0

    def shake(self, number: int) -> None:
        self._library.SSL_do_handshake(self._connections[number])

    def say(self, number: int, text: str, size: int = 0) -> None:
        """Write *text*, in pieces of *size* octets."""
        octets = text.encode("latin-1")
        size = size or len(octets)
        for at in range(0, len(octets), size):
            piece = octets[at : at + size]
            self._library.SSL_write(self._connections[number], piece, len(piece))

    def say_pieces(self, number: int, *pieces: str) -> None:
        """Write each piece by itself."""
        for piece in pieces:
            self.say(number, piece)

    def say_ex(self, number: int, text: str) -> None:
        written, size = ctypes.c_size_t(), ctypes.c_size_t(len(text))
        octets = text.encode("latin-1")
        self._library.SSL_write_ex(self._connections[number], octets, size, ctypes.byref(written))

    def say_untouched(self, number: int, text: str) -> None:
        """Write *text* from a file that is mapped, and that nobody has looked at yet."""
        with tempfile.TemporaryFile() as file:
            file.write(text.encode("latin-1"))
            file.flush()
            with mmap.mmap(file.fileno(), len(text), access=mmap.ACCESS_COPY) as memory:
                anchor = ctypes.c_char.from_buffer(memory)
                place = ctypes.c_void_p(ctypes.addressof(anchor))
                self._library.SSL_write(self._connections[number], place, len(text))
                del anchor

    def hear(self, number: int) -> str:
        room = ctypes.create_string_buffer(ROOM_BYTES)
        size = self._library.SSL_read(self._connections[number], room, ROOM_BYTES)
        return room.raw[: max(size, 0)].decode("latin-1")

    def take(self, number: int) -> str:
        """Return the records that wait."""
        room = ctypes.create_string_buffer(ROOM_BYTES)
        size = self._library.spoken_take(self._connections[number], room)
        return room.raw[:size].decode("latin-1")

    def send(self, number: int, octets: str) -> None:
        """Send octets past the library."""
        self._sockets[number].sendall(octets.encode("latin-1"))

    def send_all(self, numbers: list[int], octets: str) -> None:
        """Send the same octets over each, one right after the other."""
        for number in numbers:
            self._sockets[number].sendall(octets.encode("latin-1"))

    def free(self, number: int) -> None:
        self._library.SSL_free(self._connections[number])

    def close(self, number: int) -> None:
        self._sockets[number].close()

    def claim(self, count: int) -> None:
        """Begin *count* handshakes that go nowhere."""
        for _ in range(count):
            self._library.SSL_do_handshake(ctypes.c_void_p(self._library.spoken_new(-1)))

    def forsake(self, count: int) -> None:
        """Begin *count* reads that never return."""
        self._library.spoken_forsake(count)

    def crowd(self, count: int) -> int:
        """Shake hands on *count* threads that are there at the same time; return what failed."""
        return int(self._library.spoken_crowd(count))

    def listen(self) -> int:
        """Listen on loopback, and return the port; what comes waits to be accepted for ever."""
        sock = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(sock)
        self._connections.append(ctypes.c_void_p(None))
        return int(sock.getsockname()[1])

    def listen_at(self, address: str, port: int) -> None:
        """Listen, for one peer that :meth:`accept` waits for."""
        self._listener = socket.create_server((address, port))
        self._listener.settimeout(TIMEOUT_S)

    def accept(self) -> int:
        """Make a connection of the library for a peer, whose hello is taken off."""
        sock, _ = self._listener.accept()
        sock.settimeout(None)
        head = sock.recv(5, socket.MSG_WAITALL)
        sock.recv(int.from_bytes(head[3:5], "big"), socket.MSG_WAITALL)
        self._sockets.append(sock)
        self._connections.append(ctypes.c_void_p(self._library.spoken_new(sock.fileno())))
        return len(self._sockets) - 1

    def say_in_child(self, number: int, text: str) -> None:
        """Write *text* in a child, and go on when that has ended."""
        child = os.fork()
        if not child:
            self.say(number, text)
            os._exit(0)
        os.waitpid(child, 0)

    def fork(self) -> int:
        """Go on in a child; the parent only waits for its end."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os._exit(0)
        return os.getpid()


def main() -> None:
    """Serve until the input ends."""
    speaker, threads = Speaker(sys.argv[1]), dict[int, ThreadPoolExecutor]()
    for line in sys.stdin:
        thread, name, *arguments = json.loads(line)
        method: Any = getattr(speaker, name)
        if thread:
            pool = threads.setdefault(thread, ThreadPoolExecutor(max_workers=1))
            value = pool.submit(method, *arguments).result()
        else:
            value = method(*arguments)
        print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
