# SPDX-License-Identifier: Apache-2.0
"""Looks names up and connects at once, over and over, on several threads; prints what happened.

``loops.py LOOPS THREADS NAME PORT FORBIDDEN``: FORBIDDEN is an address that must be refused always.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter


def reach(address: str, port: int) -> str:
    """Connect once; return the error's name or ``connected``."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(60.0)
        try:
            sock.connect((address, port))
        except OSError as err:
            return type(err).__name__
        return "connected"


def loop(loops: int, name: str, port: int, forbidden: str, seen: Counter[str]) -> None:
    """Do it *loops* times over and count into *seen*."""
    for number in range(loops):
        try:
            found = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as err:
            seen[f"lookup {type(err).__name__} {err}"] += 1
            continue
        for *_, (address, _) in found:
            seen[reach(address, port)] += 1
        if number % 5 == 0:
            seen[f"forbidden {reach(forbidden, port)}"] += 1


def main(loops: int, threads: int, name: str, port: int, forbidden: str) -> None:
    """Run the threads and print their counts, and the seconds they took."""
    counts = [Counter[str]() for _ in range(threads)]
    running = [
        threading.Thread(target=loop, args=(loops // threads, name, port, forbidden, seen))
        for seen in counts
    ]
    start = time.monotonic()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    total: Counter[str] = Counter()
    for seen in counts:
        total += seen
    print(json.dumps({"seconds": time.monotonic() - start, "seen": total}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
