# SPDX-License-Identifier: Apache-2.0
"""A wall that reads inside TLS, and processes that call a stand-in library as a test tells them.

The library, ``spoken_library.c``, writes to real sockets what looks like TLS; the probes are the
real ones, at a copy of it that nobody else has.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agentwall.daemon.inside_state import TlsUse
from agentwall.daemon.inspection import inside_of
from agentwall.flow.record import Attempt, Excerpt, SandboxKey
from agentwall.flow.tls import HelloSeen, TlsLibrary
from agentwall.flow.verdict import Hook
from agentwall.host.netns import netns_cookie
from agentwall.kernel import abi, pins
from agentwall.kernel.plain import PlainCounts
from agentwall.kernel.signatures import Inspection
from agentwall.kernel.wall import Wall
from agentwall.policy.model import Policy
from agentwall.policy.tables import RuleTables
from agentwall.probes.code import Code
from agentwall.probes.compiling import Compilation
from agentwall.probes.elf import read_elf
from agentwall.probes.libraries import CALLS, WANTED
from agentwall.probes.loading import Programs, load
from agentwall.probes.uprobes import Probe, attach
from rig.cgroup import temp_cgroup
from rig.enclosure import Enclosure, parse_policy
from rig.inspection import NOTIFY, Inspector
from rig.lab import OUTSIDE, PERMITTED, PERMITTED6, Lab, lab
from rig.listeners import Server, tcp_server
from rig.probing import PATIENCE_S, close_together
from rig.process import run_checked

PORT = 3333
CALLING = b"call me"
"""The far side answers to it with what a pool says, in a record as the library makes them."""
ASKING = b"ask me"
"""To this with an empty line."""
ADDRESSES = (PERMITTED, PERMITTED6)
POLICY = f"""
    name: spoken
    allow:
      - {{cidr: {PERMITTED}, ports: [1-65535]}}
      - {{cidr: "{PERMITTED6}", ports: [1-65535]}}
      - {{cidr: {OUTSIDE}, ports: [1-65535], except: [mining]}}
"""
HELLO = b"\x16\x03\x01\x00\x2a\x01\x00\x00\x26\x03\x03" + bytes(range(36))
"""A ClientHello, as far as the wall looks."""
_HANDSHAKE, _TEXT, _SECRET, _HEADER = 22, 23, 0xA5, 5
_HERE = Path(__file__).parent
_WAIT_S = 60.0


def record(text: bytes) -> bytes:
    """Return *text* as the stand-in library would send it."""
    hidden = bytes(octet ^ _SECRET for octet in text)
    return bytes((_TEXT, 3, 3)) + len(text).to_bytes(2, "big") + hidden


def text_in(octets: bytes) -> bytes:
    """Return the text in records that arrived; one that is not whole counts as far as it came."""
    found, at = b"", 0
    while at < len(octets):
        size = int.from_bytes(octets[at + 3 : at + _HEADER], "big")
        if octets[at] == _TEXT:
            found += octets[at + _HEADER : at + _HEADER + size]
        at += _HEADER + size
    return bytes(octet ^ _SECRET for octet in found)


class Talker:
    """A process that calls the library: see ``spoken_speaker.py`` for what it can be asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid: int = self.ask("pid")
        self.ask("hello", HELLO[_HEADER:])

    def ask(self, call: str, *arguments: object, thread: int = 0) -> int:
        """Have it make a call, on a thread of its own if that is not 0; return what it gives."""
        value = self._call(call, *arguments, thread=thread)
        return value if isinstance(value, int) else 0

    def octets(self, call: str, *arguments: object, thread: int = 0) -> bytes:
        """Have it make a call that gives octets."""
        return str(self._call(call, *arguments, thread=thread)).encode("latin-1")

    def _call(self, call: str, *arguments: object, thread: int) -> object:
        plain = [a.decode("latin-1") if isinstance(a, bytes) else a for a in arguments]
        assert self._process.stdin is not None, "it is a pipe"
        assert self._process.stdout is not None, "it is a pipe"
        self._process.stdin.write(json.dumps([thread, call, *plain]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None, "it is a pipe"
            raise RuntimeError(f"speaker: {self._process.stderr.read()}")
        value: object = json.loads(line)
        return value

    def opened(self, address: str = PERMITTED, *, thread: int = 0) -> int:
        """Connect and shake hands."""
        number = self.ask("open", address, PORT, thread=thread)
        self.ask("shake", number, thread=thread)
        return number


@dataclass(slots=True)
class InsideInspector(Inspector):
    """Reads inside TLS as the rules say."""

    use: TlsUse = TlsUse.AUTO

    def inspection(self, generation: int, policy: Policy, tables: RuleTables) -> Inspection:
        """Return what ``SandboxSettings`` need for *policy*."""
        made = Inspector.inspection(self, generation, policy, tables)
        return replace(made, inside=abi.Plain(inside_of(tables, self.use)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A wall that reads, and the far side's servers."""

    lab: Lab
    enclosure: Enclosure
    library: Path
    programs: Programs
    servers: dict[str, Server]

    @contextmanager
    def talker(self, cgroup: Path | None, library: Path | None = None) -> Iterator[Talker]:
        """Start a process in *cgroup*; None: the test's own, so in no sandbox."""
        command = (sys.executable, "-I", "-S", _HERE / "spoken_speaker.py")
        with self.lab.near.process(*command, library or self.library, cgroup=cgroup) as process:
            yield Talker(process)

    @contextmanager
    def sandbox(self, text: str = POLICY) -> Iterator[tuple[SandboxKey, Talker]]:
        """Make a sandbox under a policy, with a process in it; nothing has arrived yet."""
        with (
            temp_cgroup() as cgroup,
            self.enclosure.enclosed(cgroup, parse_policy(text)) as key,
            self.talker(cgroup) as talker,
        ):
            for server in self.servers.values():
                server.clear()
            self.enclosure.wall.excerpts()
            yield key, talker

    def said(self, address: str = PERMITTED) -> bytes:
        """Return the text that arrived at *address* so far."""
        server = self.servers[address]
        with server.lock:
            return b"".join(text_in(each.data) for each in server.deliveries)

    def await_said(self, wanted: bytes, address: str = PERMITTED) -> bytes:
        """Return :meth:`said` once it is as long as *wanted*, or that took too long."""
        deadline = time.monotonic() + _WAIT_S
        while len(self.said(address)) < len(wanted) and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.said(address)

    def matches(self, key: SandboxKey) -> list[Attempt]:
        """Return what was found inside TLS so far."""
        events = self.enclosure.events(key)
        return [each for each in events if each.hook is Hook.PLAIN and each.match is not None]

    def heard(self, key: SandboxKey) -> list[Excerpt | HelloSeen]:
        """Return what came for decoders since the last call."""
        return [each for each in self.enclosure.wall.excerpts() if each.attempt.sandbox == key]

    def hellos(self, key: SandboxKey) -> list[HelloSeen]:
        """Return the ClientHellos among those."""
        return [each for each in self.heard(key) if isinstance(each, HelloSeen)]

    def counts(self) -> PlainCounts:
        """Return what was counted so far."""
        return self.enclosure.wall.plain.counts()


@contextmanager
def probed(programs: Programs, library: Path) -> Iterator[None]:
    """Probe a file that has OpenSSL's calls."""
    with ExitStack() as stack, library.open("rb") as file:
        offsets = read_elf(file.fileno(), WANTED).offsets
        probes: list[Probe] = []
        stack.callback(close_together, probes)
        cookies = iter(range(1, 100))
        for call in CALLS[TlsLibrary.OPENSSL]:
            for program, is_return in ((call.entry, False), (call.back, True)):
                if program is None or call.symbol not in offsets:
                    continue
                probe = attach(
                    programs.fds[program],
                    file.fileno(),
                    offsets[call.symbol],
                    is_return=is_return,
                    cookie=next(cookies),
                )
                probes.append(probe)
        yield


@contextmanager
def reading(wall: Wall, pin_dir: Path) -> Iterator[Programs]:
    """Let probes lead to a wall that is pinned."""
    wall.plain.open()
    programs = load(_compile(), pin_dir / pins.MAPS)
    try:
        yield programs
    finally:
        programs.close()


@functools.cache
def _compile() -> Code:
    # For any wall: once is enough.
    with Compilation(timeout_s=PATIENCE_S) as compilation:
        compilation.start()
        return compilation.wait()


def build_library(directory: Path) -> Path:
    """Build the stand-in library in *directory*."""
    made = directory / "libspoken.so"
    gcc = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-fno-inline"]
    run_checked(*gcc, "-o", made, _HERE / "spoken_library.c")
    return made


def answer(octets: bytes) -> bytes:
    """Say something when it is asked to."""
    if octets.endswith(record(ASKING)):
        return record(b"\n")
    return record(NOTIFY) if octets.endswith(record(CALLING)) else b""


@contextmanager
def ground(directory: Path) -> Iterator[Ground]:
    """Build all of it, in *directory*."""
    point, library = directory / "bpffs", build_library(directory)
    with ExitStack() as stack:
        made = stack.enter_context(lab())
        # A record that waits for the one before is sent by whoever runs then: it joins no flow.
        made.near.set("net/ipv4/tcp_autocorking", 0)
        pins.mount_bpffs(point)
        stack.callback(pins.unmount_bpffs, point)
        stack.callback(pins.clear_pins, point / "wall")
        wall = stack.enter_context(Wall.load(pin_dir=point / "wall"))
        programs = stack.enter_context(reading(wall, point / "wall"))
        stack.enter_context(probed(programs, library))
        enclosure = Enclosure(wall, made.near.call(netns_cookie))
        enclosure.inspector = InsideInspector(wall)
        servers = {
            address: stack.enter_context(
                tcp_server(made.far, address, PORT, session=lambda: answer)
            )
            for address in (*ADDRESSES, OUTSIDE)
        }
        yield Ground(
            lab=made, enclosure=enclosure, library=library, programs=programs, servers=servers
        )
