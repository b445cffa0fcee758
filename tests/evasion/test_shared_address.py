# SPDX-License-Identifier: Apache-2.0
"""One address of a real web server for two names, as at a CDN: the permitted name alone is open."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.dns import name_server
from rig.enclosure import Enclosure, describe, enclosure, parse_policy
from rig.ground import TCP_SYN
from rig.lab import PERMITTED, Lab, lab
from rig.process import wait_until
from rig.resolv import asking
from rig.sniffer import Sniffer, sniff
from rig.web import WebServer, web_server

from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Hook, ReasonCode, Verdict

pytestmark = pytest.mark.kernel

RESOLVER = "198.51.100.53"
HUB, BORROWED = "hub.example.com", "borrowed.example.net"
CONTENT = "weights"
POLICY = parse_policy(
    f"""
    name: shared
    dns: {{servers: [{RESOLVER}]}}
    allow:
      - {{host: {HUB}, ports: [443]}}
    """
)
PYTHON = """
import socket, ssl, sys
authority, at, name = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
with socket.create_connection((at, 443), timeout=60) as plain:
    with context.wrap_socket(plain, server_hostname=name) as sock:
        lines = ["GET /x HTTP/1.1", f"Host: {name}", "Connection: close", "", ""]
        sock.sendall("\\r\\n".join(lines).encode())
        print(b"".join(iter(lambda: sock.recv(4096), b"")).decode().split("\\r\\n\\r\\n")[1])
"""
CLIENTS = ("curl", "curl of TLS 1.2", "python")
SILENCE_S = 0.6
"""How long an answer to what was refused may still come, and TCP sends it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with a wall, a web server of two names, a resolver and a sniffer."""

    lab: Lab
    enclosure: Enclosure
    web: WebServer
    wire: Sniffer
    prefix: list[str | Path]
    stack: ExitStack

    def command(self, client: str, name: str, host: str = "") -> list[str | Path]:
        """Return what fetches /x as *name*: HUB is looked up, BORROWED is where HUB is."""
        at = name if name == HUB else PERMITTED
        if client == "python":
            command: list[str | Path] = [sys.executable, "-I", "-S", "-c", PYTHON]
            command += [self.web.authority, at, name]
        else:
            command = ["curl", "--silent", "--max-time", "60", "--cacert", self.web.authority]
            command += ["--tls-max", "1.2"] if "1.2" in client else []
            command += ["--resolve", f"{name}:443:{at}"] if at != name else []
            command += ["--header", f"Host: {host}"] if host else []
            command += [f"https://{name}/x"]
        return [*self.prefix, *command]

    def fetch(
        self, client: str, name: str, cgroup: Path, *, host: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Fetch /x as *name*; the server's log has it by then."""
        self.web.forget()
        done = self.lab.near.run(*self.command(client, name, host), cgroup=cgroup, timeout_s=90)
        if done.stdout:
            wait_until(self.web.requests, what="the server's log of a request")
        return done

    def refuse(self, command: list[str | Path], key: SandboxKey, cgroup: Path) -> int | None:
        """Run *command* until it is refused, and some more; return its exit code if it ended."""
        before = len(self.enclosure.refusals(key))
        with self.lab.near.process(*command, cgroup=cgroup) as child:
            wait_until(
                lambda: child.poll() is not None or self.enclosure.refusals(key, before),
                what="a refusal",
            )
            time.sleep(SILENCE_S)
            return child.poll()

    def sandbox(self) -> tuple[SandboxKey, Path]:
        """Enclose a new cgroup, to the end of the module: a dead client's kernel still sends."""
        cgroup = self.stack.enter_context(temp_cgroup())
        return self.enclosure.enclose(cgroup, POLICY), cgroup

    def sent(self) -> bytes:
        """Return the payload that connections begun since the last clear had delivered."""
        self.wire.settle()
        segments = self.wire.to(PERMITTED, 443)
        begun = {p.source_port for p in segments if p.tcp_flags & TCP_SYN}
        assert begun, "void: not even a SYN, so no hello was tried"
        return b"".join(p.payload for p in segments if p.source_port in begun)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The bench, built once."""
    with (
        lab() as made,
        enclosure(made.near) as wall,
        web_server(made, PERMITTED, name=HUB, others=[BORROWED], files={"x": CONTENT}) as web,
        name_server(made, RESOLVER, {HUB: PERMITTED, BORROWED: PERMITTED}),
        sniff(made) as wire,
        ExitStack() as stack,
    ):
        prefix = asking(tmp_path_factory.mktemp("resolv"), RESOLVER)
        yield Bench(lab=made, enclosure=wall, web=web, wire=wire, prefix=prefix, stack=stack)


@pytest.mark.parametrize("client", CLIENTS)
def test_both_names_are_served_without_the_wall(bench: Bench, client: str) -> None:
    with temp_cgroup() as free:
        done = [bench.fetch(client, name, free) for name in (HUB, BORROWED)]

    assert [d.stdout.strip() for d in done] == [CONTENT, CONTENT], [d.stderr for d in done]


@pytest.mark.parametrize("client", CLIENTS)
def test_no_octet_of_a_hello_for_the_other_name_leaves(bench: Bench, client: str) -> None:
    key, cgroup = bench.sandbox()
    permitted = bench.fetch(client, HUB, cgroup)
    assert permitted.stdout.strip() == CONTENT, permitted.stderr
    assert not bench.enclosure.refusals(key)
    bench.wire.clear()
    bench.web.forget()

    code = bench.refuse(bench.command(client, BORROWED), key, cgroup)

    assert code != 0
    assert bench.sent() == b""
    assert bench.web.requests() == []
    seen = bench.enclosure.refusals(key)
    assert [(e.hook, e.verdict, e.code) for e in seen] == [
        (Hook.EGRESS, Verdict.DENY, ReasonCode.SERVER_NAME)
    ], [describe(e) for e in seen]
    assert seen[0].question
    assert seen[0].question.name == BORROWED
    assert bench.fetch(client, HUB, cgroup).stdout.strip() == CONTENT


def test_the_other_name_is_not_resolved(bench: Bench) -> None:
    key, cgroup = bench.sandbox()
    command = ["curl", "--silent", "--max-time", "60", f"https://{BORROWED}/x"]
    done = bench.lab.near.run(*bench.prefix, *command, cgroup=cgroup)

    assert done.returncode == 6  # could not resolve host
    assert {e.code for e in bench.enclosure.refusals(key)} == {ReasonCode.QUESTION}


def test_a_real_client_that_names_nobody_is_refused(bench: Bench) -> None:
    key, cgroup = bench.sandbox()
    assert bench.fetch("curl", HUB, cgroup).stdout.strip() == CONTENT
    bench.wire.clear()

    # To an address curl says no server name.
    command = ["curl", "--silent", "--insecure", "--max-time", "60", f"https://{PERMITTED}/x"]
    code = bench.refuse(command, key, cgroup)

    assert code != 0
    assert bench.sent() == b""
    assert [e.code for e in bench.enclosure.refusals(key)] == [ReasonCode.NO_SERVER_NAME]


def test_what_is_said_inside_tls_is_not_seen(bench: Bench) -> None:
    """Domain fronting at a server that allows it: Host is sealed. Only the server can refuse."""
    key, cgroup = bench.sandbox()
    done = bench.fetch("curl", HUB, cgroup, host=BORROWED)

    assert done.stdout.strip() == CONTENT
    assert not bench.enclosure.refusals(key)
    assert BORROWED in bench.web.requests()[-1]
