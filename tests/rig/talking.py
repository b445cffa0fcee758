# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` of clients that say what a test tells them to a server that is permitted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rig.cli import agentwall, environment
from rig.lab import PERMITTED, PERMITTED6, Lab

POOL, WEB = 3333, 8080
WALLET = "4" + "8Bv" * 31 + "7"
SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}\n'
AUTHORIZE = json.dumps({"id": 2, "method": "mining.authorize", "params": [WALLET, "x"]}).encode()
LOGIN = json.dumps(
    {"id": 1, "method": "login", "params": {"login": WALLET, "pass": "x", "agent": "XMRig/6.21.0"}}
).encode()
ESCAPED = b'{"id": 1, "method": "mining.\\u0073ubscribe", "params": ["cpuminer/2.5.1"]}\n'
POLICY = f"""version: 1
name: lab
allow:
  - {{cidr: {PERMITTED}, ports: [22, {POOL}, {WEB}]}}
  - {{cidr: "{PERMITTED6}", ports: [22, {POOL}, {WEB}]}}
"""
EXCEPTED = POLICY.replace("]}", "], except: [mining, tunnel/ssh]}")
TALK = """
import json, socket, sys, time
address, port, size, message = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
data, answer = bytes.fromhex(message), b""
sock = socket.create_connection((address, port), timeout=60)
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
try:
    for at in range(0, len(data), size):
        sock.sendall(data[at : at + size])
        time.sleep(0.002 if size < len(data) else 0)
    answer = sock.recv(4096)
    told = "answered" if answer else "closed"
except OSError as err:
    told = type(err).__name__
print(json.dumps({"told": told}), flush=True)
"""


def events_of(path: Path) -> list[dict]:
    """Return the events in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(
    made: Lab, directory: Path, *command: str, policy: str = POLICY, options: tuple[str, ...] = ()
) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
    """Run *command* behind *policy* in the near namespace; return it with its detections."""
    path, events = directory / "policy.yaml", directory / "events.jsonl"
    path.write_text(policy)
    done = subprocess.run(
        made.near.inside(
            *agentwall("run", "-p", path, "--events", events, *options, "--"), *command
        ),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert events.exists(), done.stderr
    return done, [each for each in events_of(events) if each["kind"] == "detection"]


def talk(data: bytes, address: str = PERMITTED, port: int = POOL, size: int = 0) -> list[str]:
    """Return a command that says *data* in pieces of *size* bytes, and what became of it."""
    numbers = (str(port), str(size or len(data)))
    return [sys.executable, "-c", TALK, address, *numbers, data.hex()]
