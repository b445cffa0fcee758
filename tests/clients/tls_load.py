# SPDX-License-Identifier: Apache-2.0
"""Sends many HTTPS requests with http.client: tls_load.py ADDRESS PORT NAME AUTHORITY FILE.

FILE is JSON, a list of {method, path, headers, body, closes}. Prints how many were answered with a
code of 2xx and a whole body. A connection is used for the requests up to one that closes it.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from pathlib import Path


class _Connection(http.client.HTTPSConnection):
    # Asks the address for the name.
    def __init__(self, address: str, port: int, name: str, context: ssl.SSLContext) -> None:
        super().__init__(name, port, context=context, timeout=30)
        self._address, self._name, self._tls = address, name, context

    def connect(self) -> None:
        raw = socket.create_connection((self._address, self.port), self.timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self._name)


def main(address: str, port: str, name: str, authority: str, file: str) -> int:
    """Send them all; return the exit code."""
    context = ssl.create_default_context(cafile=authority)
    connection = _Connection(address, int(port), name, context)
    answered = 0
    requests = json.loads(Path(file).read_text())
    for each in requests:
        headers = dict(each["headers"]) | ({"Connection": "close"} if each["closes"] else {})
        body = each["body"].encode() or None
        try:
            connection.request(each["method"], each["path"], body, headers)
            response = connection.getresponse()
            response.read()
            answered += 200 <= response.status < 300
        except (OSError, http.client.HTTPException) as err:
            print(f"tls_load: {each['path']}: {err!r}", file=sys.stderr)
            connection.close()
    connection.close()
    print(answered)
    return int(answered < len(requests))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
