# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` against mining and tunnels: what is said is cut off, or told of."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rig.cli import agentwall, environment, run_agentwall
from rig.lab import PERMITTED, PERMITTED6, Lab, lab
from rig.listeners import sink, tcp_server, udp_server
from rig.ssh import ssh_server
from rig.stratum import stratum_server
from rig.talking import (
    AUTHORIZE,
    EXCEPTED,
    LOGIN,
    POLICY,
    POOL,
    SUBSCRIBE,
    WALLET,
    WEB,
    run,
    talk,
)

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def here() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.mark.parametrize("address", [PERMITTED, PERMITTED6])
@pytest.mark.parametrize("message", [SUBSCRIBE, LOGIN], ids=["subscribe", "login"])
def test_mining_in_one_piece(here: Lab, tmp_path: Path, address: str, message: bytes) -> None:
    """Not a byte of it gets out, the client is told, and so is the log."""
    with stratum_server(here.far, address, POOL) as pool:
        done, found = run(here, tmp_path, *talk(message, address), options=("--fail-on", "high"))

    told = json.loads(done.stdout)
    assert told["told"] in ("ConnectionAbortedError", "ConnectionResetError"), done.stderr
    assert pool.received == b""
    assert done.returncode == 86
    [detection] = found
    assert (detection["class"], detection["stage"]) == ("mining", "signature")
    assert (detection["verdict"], detection["response"]) == ("deny", "block")
    assert detection["bytes_left"] == 0
    assert detection["severity"] == "high"
    assert detection["reason"]["rule"] == f"lab:allow[{int(address == PERMITTED6)}]"
    assert detection["remote"]["address"] == address
    assert detection["process"]["comm"].startswith("python")
    assert detection["evidence"]["excerpt"].startswith('{"id": 1, "method": "')
    assert WALLET not in (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize("size", [1, 7, 10])
@pytest.mark.parametrize("address", [PERMITTED, PERMITTED6])
def test_mining_in_pieces(here: Lab, tmp_path: Path, address: str, size: int) -> None:
    """Less than one message gets out, however it is cut; the log says how much that is."""
    with stratum_server(here.far, address, POOL) as pool:
        done, found = run(here, tmp_path, *talk(SUBSCRIBE, address, size=size))
        [detection] = found
        pool.wait(detection["bytes_left"])

    assert json.loads(done.stdout)["told"] != "answered"
    assert len(pool.received) <= SUBSCRIBE.index(b'", "params"')
    assert detection["verdict"] == "deny"
    assert detection["bytes_left"] == len(pool.received)


def test_excepted(here: Lab, tmp_path: Path) -> None:
    """Behind a rule that excepts it, mining works and nothing is told of it."""
    with stratum_server(here.far, PERMITTED, POOL) as pool:
        done, found = run(here, tmp_path, *talk(SUBSCRIBE + AUTHORIZE), policy=EXCEPTED)

    assert json.loads(done.stdout)["told"] == "answered", done.stderr
    assert pool.received == SUBSCRIBE + AUTHORIZE
    assert found == []


@pytest.mark.parametrize(
    ("text", "options", "verdict", "response"),
    [
        (POLICY, ("--mode", "audit"), "would-deny", "block"),
        (POLICY, ("--mode", "observe"), "allow", "block"),
        (POLICY + "detect: {mining: alert}\n", (), "allow", "alert"),
    ],
)
def test_told_of_only(
    here: Lab, tmp_path: Path, text: str, options: tuple[str, ...], verdict: str, response: str
) -> None:
    """In other modes, or where the policy only wants to know, it works and is told of."""
    with stratum_server(here.far, PERMITTED, POOL) as pool:
        done, found = run(here, tmp_path, *talk(SUBSCRIBE), policy=text, options=options)

    assert json.loads(done.stdout)["told"] == "answered", done.stderr
    assert pool.received == SUBSCRIBE
    by_client = [each for each in found if each["stage"] == "signature"]
    assert {(each["verdict"], each["response"]) for each in by_client} == {(verdict, response)}
    assert {each["bytes_left"] for each in found} == {None}


def test_off(here: Lab, tmp_path: Path) -> None:
    """Where every class is off nothing is looked for, in the kernel either."""
    text = POLICY + "detect: {mining: off, tunnel: off, p2p: off}\n"
    with stratum_server(here.far, PERMITTED, POOL) as pool:
        done, found = run(here, tmp_path, *talk(SUBSCRIBE), policy=text)

    assert json.loads(done.stdout)["told"] == "answered", done.stderr
    assert (pool.received, found) == (SUBSCRIBE, [])


@pytest.mark.parametrize(
    ("text", "logins"), [(POLICY, 0), (EXCEPTED, 1)], ids=["blocked", "excepted"]
)
def test_ssh(here: Lab, tmp_path: Path, text: str, logins: int) -> None:
    """OpenSSH to a permitted host ends at its first line, unless the rule excepts it."""
    if shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's client")
    with ssh_server(here, PERMITTED) as server:
        key = tmp_path / "key"
        shutil.copy(server.client_key, key)
        key.chmod(0o600)
        done, found = run(here, tmp_path, *server.client_command(key), policy=text)

        assert server.logins() == logins, done.stderr
    if logins:
        assert found == []
    else:
        assert {(each["dialect"], each["verdict"]) for each in found} == {("ssh", "deny")}
        assert done.returncode == 255


ASK = """
import json, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(60)
sock.connect((sys.argv[1], int(sys.argv[2])))
try:
    sock.send(bytes.fromhex(sys.argv[3]))
    told = "answered" if sock.recv(4096) else "closed"
except OSError as err:
    told = type(err).__name__
print(json.dumps({"told": told}))
"""
HANDSHAKE = b"\x01\x00\x00\x00" + bytes(range(1, 129)) + bytes(16)
"""The size and shape of WireGuard's first message."""


def test_datagrams(here: Lab, tmp_path: Path) -> None:
    """WireGuard's handshake does not get out, and the system call says so."""
    text = POLICY.replace(str(WEB), f"udp/{WEB}")
    command = (sys.executable, "-c", ASK, PERMITTED, str(WEB), HANDSHAKE.hex())
    with udp_server(here.far, PERMITTED, WEB) as server:
        done, found = run(here, tmp_path, *command, policy=text)

    assert json.loads(done.stdout)["told"] == "PermissionError", done.stderr
    assert server.received == b""
    assert [(each["dialect"], each["verdict"]) for each in found] == [("wireguard", "deny")]


WAITING = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
print("connected", flush=True)
sys.stdin.readline()
while True:
    try:
        sock.sendall(bytes.fromhex(sys.argv[3]))
    except OSError:
        pass
    time.sleep(0.05)
"""


def test_agentwall_is_killed(here: Lab, tmp_path: Path) -> None:
    """With agentwall gone by SIGKILL the kernel goes on: of what is said then nothing gets out."""
    path, events = tmp_path / "policy.yaml", tmp_path / "events.jsonl"
    path.write_text(POLICY)
    command = (sys.executable, "-c", WAITING, PERMITTED, str(POOL), SUBSCRIBE.hex())
    words = agentwall("run", "-p", path, "--events", events, "--", *command)
    with stratum_server(here.far, PERMITTED, POOL) as pool:
        child = subprocess.Popen(
            here.near.inside(*words),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert child.stdout is not None
            assert child.stdin is not None
            assert child.stdout.readline() == "connected\n"
            # Of the file that is being written to: its first line is whole, its last may not be.
            start = json.loads(events.read_text().splitlines()[0])
            # nsenter has become agentwall: it executes what it is given.
            os.kill(child.pid, signal.SIGKILL)
            child.wait(60)
            with suppress(BrokenPipeError):
                child.stdin.write("\n")
                child.stdin.flush()
            time.sleep(0.5)
            assert pool.received == b""
        finally:
            child.kill()
            child.wait(60)
            child.stdin.close()
            child.stdout.close()
            cleaned = run_agentwall("doctor", "--clean", "--kill", "--format", "json")

    assert pool.received == b""
    run_id = start["sandbox"]["id"]
    assert run_id not in json.dumps(json.loads(cleaned.stdout)["leftovers"])


def test_named_pool(tmp_path: Path, here: Lab) -> None:
    """A question for a listed name is an alert, though the question is refused."""
    signatures = tmp_path / "more.yaml"
    signatures.write_text(INDICATORS)
    text = POLICY + "dns: {servers: [198.51.100.53]}\n"
    ask = (
        "import socket; s = socket.socket(2, 2); s.connect(('198.51.100.53', 53)); "
        r"s.send(b'\0\1\1\0\0\1\0\0\0\0\0\0\2eu\4pool\7example\0\0\1\0\1')"
    )
    done, found = run(
        *(
            here,
            tmp_path,
            sys.executable,
            "-c",
            f"import contextlib\nwith contextlib.suppress(OSError): {ask}",
        ),
        policy=text,
        options=("--signatures", str(signatures)),
    )

    assert done.returncode == 0, done.stderr
    [detection] = found
    assert (detection["stage"], detection["response"]) == ("indicator", "alert")
    assert detection["evidence"]["asked"] == "eu.pool.example"


INDICATORS = """version: 1
indicators:
  - id: mining/test-pools
    class: mining
    dialect: pool
    severity: high
    confidence: medium
    dated: 2026-01-02
    names: [pool.example]
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\nsignatures: [{id: x}]\n", r"more\.yaml:2:"),
        (
            "version: 1\nsignatures:\n"
            + "".join(
                f"  - {{id: mining/d{n}, class: mining, dialect: d{n}, protocol: tcp,"
                f" direction: client, pattern: '^d{n}!', description: d, examples: ['d{n}!'],"
                " counterexamples: [x]}\n"
                for n in range(70)
            ),
            "expected at most 63 dialects",
        ),
    ],
    ids=["malformed", "too many"],
)
def test_signatures_that_do_not_do(tmp_path: Path, text: str, said: str) -> None:
    """What is wrong with signatures is said before anything starts."""
    (tmp_path / "more.yaml").write_text(text)
    trace, events = tmp_path / "trace", tmp_path / "events.jsonl"
    done = run_agentwall(
        *("run", "--signatures", tmp_path / "more.yaml", "--events", events),
        *("--", "touch", trace),
    )

    assert done.returncode == 125
    assert re.search(said, done.stderr), done.stderr
    assert not trace.exists()
    assert not events.exists()


def test_own_signatures(here: Lab, tmp_path: Path) -> None:
    """A signature of one's own holds as those that come with agentwall do."""
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "own.yaml").write_text(OWN)
    with tcp_server(here.far, PERMITTED, WEB, session=lambda: sink) as server:
        done, found = run(
            *(here, tmp_path, *talk(b"EXFIL 1.0 secrets\n", port=WEB)),
            options=("--signatures", str(directory)),
        )

    assert json.loads(done.stdout)["told"] in ("ConnectionAbortedError", "ConnectionResetError")
    assert server.received == b""
    assert [each["signature"] for each in found] == ["tunnel/own"]


OWN = """version: 1
signatures:
  - id: tunnel/own
    class: tunnel
    dialect: own
    protocol: tcp
    direction: client
    pattern: '^EXFIL [0-9]'
    description: a protocol of this site
    examples: ['EXFIL 1']
    counterexamples: ['HELLO']
"""
