# SPDX-License-Identifier: Apache-2.0
"""Real tunnels through DNS against the budgets: iodine and dns2tcp, between two namespaces.

What crosses the wire from near to far is read as the capture reader would hand it over. A tunnel
has to be found before it has carried much, whichever record type it uses.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.lab import FAR4, Lab, lab
from rig.process import running, wait_until
from rig.sniffer import Sniffer, sniff

from agentwall.detect.dns_budget import DnsWatch, read_asked
from agentwall.flow.finding import Confidence, Finding
from agentwall.policy.model import DnsLimits

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
ZONE = "t.example.com"
INSIDE_SERVER = "10.99.53.1"
ECHO_PORT, NEAR_PORT = 7007, 7008
ENOUGH = 60
"""Questions by which a tunnel in use has to be known for certain."""


def tool(name: str) -> str:
    """Return the path of *name*, or skip."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed: its package is in tools/packages.txt")
    return found


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")


@pytest.fixture
def wire() -> Iterator[tuple[Lab, Sniffer]]:
    """Two namespaces, and what crosses between them."""
    with lab() as made, sniff(made) as sniffer:
        yield made, sniffer


@contextmanager
def iodine(made: Lab, log: Path, kind: str) -> Iterator[None]:
    """A tunnel of iodine's, up and with an address on both sides."""
    server, client = tool("iodined"), tool("iodine")
    if not stat.S_ISCHR(os.stat("/dev/net/tun").st_mode if os.path.exists("/dev/net/tun") else 0):
        pytest.skip("iodine needs /dev/net/tun, which is not here")
    served = made.far_command(
        server, "-f", "-c", "-P", "word", "-l", FAR4, f"{INSIDE_SERVER}/27", ZONE
    )
    # -m: without it iodine tries fragment sizes for half a minute, which would be found as well.
    asking = made.near.command(
        client, "-f", "-r", "-P", "word", "-m", "120", "-T", kind, FAR4, ZONE
    )
    with running(served, log=log.with_suffix(".server")):
        wait_until(lambda: _listens_udp(made, 53), what="iodined: port 53")
        ready = "Connection setup complete"
        with running(asking, log=log, ready=lambda: ready in log.read_text(errors="replace")):
            yield


@contextmanager
def dns2tcp(made: Lab, log: Path, kind: str) -> Iterator[None]:
    """A port of the near side's that leads through dns2tcp to an echo on the far side."""
    server, client = tool("dns2tcpd"), tool("dns2tcpc")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "dns2tcpd.conf")
        config.write_text(
            f"listen = {FAR4}\nport = 53\nuser = nobody\nchroot = {folder}\n"
            f"domain = {ZONE}\nresources = echo:127.0.0.1:{ECHO_PORT}\n"
        )
        os.chmod(folder, 0o755)
        echo = made.far_command(
            *("socat", f"TCP-LISTEN:{ECHO_PORT},bind=127.0.0.1,fork,reuseaddr", "EXEC:cat")
        )
        served = made.far_command(server, "-F", "-f", config)
        asking = made.near.command(
            *(client, "-z", ZONE, "-r", "echo", "-l", NEAR_PORT, "-T", kind, FAR4)
        )
        with (
            running(echo, log=log, ready=lambda: made.far.listens(ECHO_PORT)),
            running(served, log=log, ready=lambda: _listens_udp(made, 53)),
            running(asking, log=log, ready=lambda: made.near.listens(NEAR_PORT)),
        ):
            yield


def _listens_udp(made: Lab, port: int) -> bool:
    table = made.far.call(lambda: Path("/proc/thread-self/net/udp").read_text())
    return any(f":{port:04X} " in line.split(":", 1)[1] for line in table.splitlines()[1:])


def judged(sniffer: Sniffer) -> tuple[list[tuple[int, Finding]], int]:
    """Return what the budgets say with the number of the question, and how many there were."""
    sniffer.settle()
    watch = DnsWatch(DnsLimits())
    questions = [read_asked(packet.payload) for packet in sniffer.to(FAR4, 53)]
    asked = [question for question in questions if question is not None]
    # All within seconds, in truth: what matters are the names.
    found = [
        (number, finding)
        for number, question in enumerate(asked, 1)
        for finding in watch.see(number * 1_000_000, question)
    ]
    return found, len(asked)


def check(sniffer: Sniffer) -> None:
    """Assert that the tunnel was found, for certain in time, and print the figures."""
    found, asked = judged(sniffer)
    tunnels = [(n, f) for n, f in found if f.signature == "behaviour/dns-tunnel"]
    for number, finding in tunnels:
        print(f"question {number} of {asked}: {finding.confidence.value} {finding.evidence}")

    assert tunnels
    assert tunnels[-1][0] <= ENOUGH
    assert tunnels[-1][1].confidence is Confidence.HIGH
    assert tunnels[-1][1].evidence["zone"] == "example.com"


@pytest.mark.parametrize("kind", ["NULL", "TXT", "CNAME", "A"])
def test_iodine(wire, tmp_path, kind):
    """iodine is found by its questions, with any type of record."""
    made, sniffer = wire
    with iodine(made, tmp_path / "log", kind):
        pinged = made.near.run("ping", "-c", "6", "-i", "0.2", "-s", "300", INSIDE_SERVER)
        assert pinged.returncode == 0, pinged.stdout

        check(sniffer)


@pytest.mark.parametrize("kind", ["TXT", "KEY"])
def test_dns2tcp(wire, tmp_path, kind):
    """dns2tcp is found by its questions once it carries something."""
    made, sniffer = wire
    with dns2tcp(made, tmp_path / "log", kind):
        sent = os.urandom(3000)
        with made.near.socket(socket.AF_INET, socket.SOCK_STREAM) as through:
            through.settimeout(60)
            through.connect(("127.0.0.1", NEAR_PORT))
            through.sendall(sent)
            back = b""
            while len(back) < len(sent):
                part = through.recv(65536)
                assert part
                back += part
        assert back == sent

        check(sniffer)
