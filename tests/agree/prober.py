# SPDX-License-Identifier: Apache-2.0
"""Runs inside a test's cgroup and namespace: tries each flow it reads, prints the errno it got.

A line in: ``tcp|udp|udp-connect ADDRESS PORT``, and for ``udp`` what to send, in hex, if it is not
the letter x. A line out: the errno, 0 for success.
"""

import errno
import socket
import sys


def attempt(kind: str, address: str, port: int, said: bytes = b"x") -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    stream = kind == "tcp"
    with socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            if kind == "udp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.sendto(said, (address, port))
            else:
                sock.connect((address, port))
        except OSError as err:
            return err.errno or errno.EIO
    return 0


print("ready", flush=True)
for line in sys.stdin:
    kind, address, port, *said = line.split()
    print(attempt(kind, address, int(port), *map(bytes.fromhex, said)), flush=True)
