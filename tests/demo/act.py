# SPDX-License-Identifier: Apache-2.0
"""One act: the agent lives its day behind ``agentwall run``; then the far side is read."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig.ground import is_noise
from rig.packet import Packet

from demo.attempts import (
    API,
    API_NAME,
    API_PATH,
    ATTEMPTS,
    DROP_POINT,
    DROP_POINT6,
    EXFIL_RESOLVER,
    LOOT,
    METADATA,
    PINGED,
    PINGED_RAW,
    POOL,
    POOL_PORT,
    RESOLVER,
    Attempt,
)
from demo.stage import Stage

HERE = Path(__file__).parent
POLICY = Path(os.path.relpath(HERE / "rome.yaml"))
# Both, and the policy, as the reports shall show them: seen from where the demo was started.
_PYTHON = os.path.relpath(sys.executable)
_AGENT = os.path.relpath(HERE / "agent.py")
Words = tuple[str | Path, ...]
_TUNNEL_PORT = 8022
_TIMEOUT_S = 300.0
# Its own /etc/resolv.conf, as a container would have it.
_RESOLVER_MOUNT = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
_PERMITTED = (
    (API, socket.IPPROTO_TCP, 443),
    (RESOLVER, socket.IPPROTO_UDP, 53),
    (RESOLVER, socket.IPPROTO_TCP, 53),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What of one attempt got across."""

    packets: int
    payload: bytes
    """Off the wire, joined."""
    targets: int
    """How many of the attempt's targets got a packet."""
    heard: bytes
    """What the services there were told."""
    visitors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Everything that is known after the agent's day in one mode."""

    mode: str
    exit_code: int
    messages: str
    """What ``agentwall run`` said on stderr."""
    claims: dict[str, tuple[str, str]]
    """By attempt: outcome and detail, as the agent believes."""
    arrivals: dict[str, Arrival]
    strays: list[Packet]
    """What crossed the wire to a place that the policy does not permit."""
    requests: list[str]
    questions: list[tuple[str, str, str]]
    events: list[dict[str, Any]]
    events_file: Path


def play(stage: Stage, mode: str, directory: Path, *options: str) -> Act:
    """Let the agent live its day behind ``agentwall run --mode`` *mode*, and read the far side."""
    stage.forget()
    events_file = directory / f"{mode}.jsonl"
    command = _command(stage, mode, directory, events_file, options)
    done = stage.lab.near.run(*command, timeout_s=_TIMEOUT_S)
    (directory / f"{mode}.stderr").write_text(done.stderr)
    stage.wire.settle()
    # What ends a flow of the act before may come in this one.
    packets = [packet for packet in stage.wire.packets() if not is_noise(packet)]
    claims = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Act(
        mode=mode,
        exit_code=done.returncode,
        messages=done.stderr,
        claims={claim["attempt"]: (claim["outcome"], claim["detail"]) for claim in claims},
        arrivals={attempt.id: _measure(stage, packets, attempt) for attempt in ATTEMPTS},
        strays=[packet for packet in packets if _is_stray(packet)],
        requests=stage.web.requests(),
        questions=stage.names.questions(),
        events=_read_events(events_file),
        events_file=events_file,
    )


def _command(
    stage: Stage, mode: str, directory: Path, events_file: Path, options: tuple[str, ...]
) -> list[str | Path]:
    resolver = directory / "resolv.conf"
    resolver.write_text(f"nameserver {RESOLVER}\n")
    script = directory / "script.json"
    script.write_text(json.dumps(_script(stage)))
    in_its_room = ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c")
    # As root, the hardest agent to keep in, also where the demo itself was started by sudo.
    wall: Words = ("-m", "agentwall", "run", "-p", POLICY, "--user", "root", "--mode", mode)
    agent: Words = (_PYTHON, _AGENT, script)
    return [
        *in_its_room,
        *(_RESOLVER_MOUNT, resolver),
        *(sys.executable, *wall, "--events", events_file, *options, "--"),
        *agent,
    ]


def _script(stage: Stage) -> dict[str, object]:
    return {
        "url": f"https://{API_NAME}{API_PATH}",
        "authority": str(stage.web.authority),
        "scan": ATTEMPTS[0].targets,
        "metadata": METADATA,
        "ssh": stage.bastion.client_command(stage.bastion.client_key),
        "tunnel_port": _TUNNEL_PORT,
        "pool": (POOL, POOL_PORT),
        "udp": (EXFIL_RESOLVER, 53),
        "ipv6": (DROP_POINT6, 443),
        "direct": DROP_POINT,
        "ping": PINGED,
        "raw": PINGED_RAW,
        "loot": LOOT,
    }


def _measure(stage: Stage, crossed: list[Packet], attempt: Attempt) -> Arrival:
    packets = [
        packet
        for packet in crossed
        if (packet.destination, packet.destination_port) in attempt.targets
    ]
    return Arrival(
        packets=len(packets),
        payload=b"".join(packet.payload for packet in packets),
        targets=len({(packet.destination, packet.destination_port) for packet in packets}),
        heard=stage.heard(attempt.id),
        visitors=stage.visitors(attempt.id),
    )


def _is_stray(packet: Packet) -> bool:
    return (packet.destination, packet.protocol, packet.destination_port) not in _PERMITTED


def _read_events(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
