# SPDX-License-Identifier: Apache-2.0
"""A miner that has GnuTLS hide how long its line is: gnutls_range.py ADDRESS PORT."""

import ctypes
import socket
import sys

LINE = b'{"id": 1, "method": "mining.subscribe", "params": ["test/1.0"]}\n'
_CLIENT, _CERTIFICATE = 2, 1


def main() -> int:
    """Shake hands, say one line, and wait for its answer; 0: it came."""
    gnutls = ctypes.CDLL("libgnutls.so.30")
    for name in ("gnutls_handshake", "gnutls_record_send_range", "gnutls_record_recv"):
        getattr(gnutls, name).restype = ctypes.c_ssize_t
    credentials, session = ctypes.c_void_p(), ctypes.c_void_p()
    gnutls.gnutls_certificate_allocate_credentials(ctypes.byref(credentials))
    gnutls.gnutls_init(ctypes.byref(session), _CLIENT)
    gnutls.gnutls_set_default_priority(session)
    gnutls.gnutls_credentials_set(session, _CERTIFICATE, credentials)
    sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    sock.settimeout(None)
    gnutls.gnutls_transport_set_int2(session, sock.fileno(), sock.fileno())
    if code := gnutls.gnutls_handshake(session):
        print("handshake", code, file=sys.stderr)
        return 2
    text, size = ctypes.create_string_buffer(LINE), ctypes.c_size_t(len(LINE))
    # struct gnutls_range_st: between how many octets and how many it is to look like.
    between = (ctypes.c_size_t * 2)(len(LINE), len(LINE))
    gnutls.gnutls_record_send_range(session, text, size, between)
    return int(gnutls.gnutls_record_recv(session, text, size) <= 0)


if __name__ == "__main__":
    sys.exit(main())
