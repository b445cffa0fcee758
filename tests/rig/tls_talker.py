# SPDX-License-Identifier: Apache-2.0
"""A client of OpenSSL in a sandbox that says what it is told to, when it is told to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentwall.probes.mappings import Mapping, executable_mappings
from rig.cgroup import in_cgroup
from rig.namespace import Namespace
from rig.process import stop
from rig.tls_clients import PYTHON
from rig.tls_programs import with_libraries

MINING = '{"id": 1, "method": "mining.subscribe", "params": ["test/1.0"]}\n'
CHAT = '{"id": 9, "method": "hello"}\n'
PATIENCE_S = 60.0
"""For an answer of the server, or the end of the connection: it comes, sooner or later."""
SILENCE_S = 1.5
"""After which nothing is going to come of what was not sent."""

# A line in, a line out: what came of it.
_SCRIPT = """
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
one = None
print("ready", flush=True)
for line in sys.stdin:
    word, _, rest = line.rstrip("\\n").partition(" ")
    try:
        if word == "connect":
            plain = socket.create_connection(("127.0.0.1", int(rest)))
            one = context.wrap_socket(plain)
            print("connected", flush=True)
        else:
            patience, _, text = rest.partition(" ")
            one.settimeout(float(patience))
            one.sendall((text + "\\n").encode())
            print("answered" if one.recv(65536) else "ended", flush=True)
    except TimeoutError:
        print("silence", flush=True)
    except (OSError, AttributeError) as err:
        print("broken", err, flush=True)
"""


class Talker:
    """One such process, with one connection at a time."""

    def __init__(self, child: subprocess.Popen[str], pid: int) -> None:
        self._child = child
        self.pid = pid

    def _do(self, line: str) -> str:
        assert self._child.stdin is not None, "it is a pipe"
        assert self._child.stdout is not None, "it is a pipe"
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()
        return self._child.stdout.readline().rstrip("\n")

    def connect(self, port: int) -> str:
        """Begin a TLS session; return ``connected``, or ``broken`` and why."""
        return self._do(f"connect {port}")

    def say(self, text: str, patience_s: float = PATIENCE_S) -> str:
        """Say a line; return ``answered``, ``ended``, ``silence``, or ``broken`` and why.

        Args:
            text: Of the line.
            patience_s: After which it is silence; :data:`SILENCE_S` where nothing is to come.
        """
        return self._do(f"say {patience_s} {text.rstrip()}")

    def library(self, name: str = "libssl") -> Mapping:
        """Return its mapping of a library."""
        return next(
            each
            for each in executable_mappings(self.pid)
            if each.path.rpartition(b"/")[2].startswith(name.encode())
        )

    def is_probed(self) -> bool:
        """Say whether its library differs in memory from what is in the file."""
        return is_probed(self.pid, self.library())


def is_probed(pid: int, mapping: Mapping) -> bool:
    """Say whether the kernel has put a breakpoint anywhere into the code of a mapped file."""
    size = mapping.end - mapping.start
    where = f"{mapping.start:x}-{mapping.end:x}"
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        [offset] = [int(line.split()[2], 16) for line in maps if line.startswith(where)]
    with open(f"/proc/{pid}/map_files/{where}", "rb") as file:
        file.seek(offset)
        there = file.read(size)
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(mapping.start)
        return memory.read(size)[: len(there)] != there


@contextmanager
def talking(
    cgroup: Path, namespace: Namespace, libraries: Path, port: int | None = None
) -> Iterator[Talker]:
    """Start one in *cgroup* and *namespace*, with the libraries of a directory.

    Args:
        cgroup: Of a sandbox.
        namespace: Where its server is, on 127.0.0.1.
        libraries: Of :func:`rig.tls_programs.copy_libraries`.
        port: Of the server it is connected to when the block begins; None: of none.
    """
    command = with_libraries(libraries, [PYTHON, "-I", "-S", "-c", _SCRIPT])
    child = subprocess.Popen(
        in_cgroup(cgroup, *namespace.command(*command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None, "it is a pipe"
        assert child.stdout.readline() == "ready\n"
        talker = Talker(child, child.pid)
        if port is not None:
            assert talker.connect(port) == "connected"
        yield talker
    finally:
        stop(child)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()
