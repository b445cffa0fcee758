# SPDX-License-Identifier: Apache-2.0
"""Opens flows by name, and after each line on stdin sends on every one of them.

``flows.py PORT COUNT NAME...``: COUNT flows to each NAME. A line says, as JSON, how many seconds
each name's answers are waited for at most; printed is how many of its flows were answered.
"""

from __future__ import annotations

import json
import socket
import sys
import time


def open_flows(name: str, port: int, count: int) -> list[socket.socket]:
    """Look *name* up and connect, *count* times."""
    flows = []
    for _ in range(count):
        found = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)
        flow = socket.create_connection(found[0][4], 60.0)
        flow.setblocking(False)
        flows.append(flow)
    return flows


def answered(flows: list[socket.socket], word: bytes, within_s: float) -> int:
    """Send *word* on every flow and count those that echo it, for *within_s* at most."""
    for flow in flows:
        flow.send(word)
    heard = {flow: b"" for flow in flows}
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and any(word not in got for got in heard.values()):
        for flow in flows:
            try:
                heard[flow] += flow.recv(4096)
            except BlockingIOError:
                continue
        time.sleep(0.01)
    return sum(word in got for got in heard.values())


def main(port: int, count: int, names: list[str]) -> None:
    """Open all flows, then take turns with who reads the counts."""
    flows = {name: open_flows(name, port, count) for name in names}
    print("open", flush=True)
    for number, line in enumerate(sys.stdin):
        word, within_s = b"round %04d" % number, json.loads(line)
        counts = {name: answered(flows[name], word, within_s[name]) for name in names}
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
