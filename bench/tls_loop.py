# SPDX-License-Identifier: Apache-2.0
"""``tls_loop.py ADDRESS PORT PATH COUNT``: microseconds of a request over one kept connection.

Only the standard library, as an agent's client has it.
"""

from __future__ import annotations

import http.client
import ssl
import sys
import time


def loop(address: str, port: int, path: str, count: int) -> float:
    """Ask *count* times for *path*, and a tenth of that before, untimed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address, port, context=context)
    begun_s = time.perf_counter()
    for number in range(-count // 10, count):
        if number == 0:
            begun_s = time.perf_counter()
        connection.request("GET", path, headers={"User-Agent": "bench", "Accept": "*/*"})
        answer = connection.getresponse()
        if answer.status != http.client.OK or not answer.read():
            raise RuntimeError(f"{path}: expected an answer, got {answer.status}")
    return (time.perf_counter() - begun_s) / count * 1e6


if __name__ == "__main__":
    print(f"{loop(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])):.2f}")
