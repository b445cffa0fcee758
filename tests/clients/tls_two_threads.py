# SPDX-License-Identifier: Apache-2.0
"""A miner whose records another thread sends: tls_two_threads.py ADDRESS PORT."""

import queue
import socket
import ssl
import sys
import threading

LINE = b'{"id": 1, "method": "mining.subscribe", "params": ["test/1.0"]}\n'


def send_all(records: queue.Queue[bytes], to: socket.socket) -> None:
    """Send what is put into *records* until that is nothing."""
    while record := records.get():
        try:
            to.sendall(record)
        except OSError as err:
            print(err, file=sys.stderr)


def main() -> int:
    """Shake hands, say one line, and wait for its answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
    arrived, leaves, records = ssl.MemoryBIO(), ssl.MemoryBIO(), queue.Queue()
    tls = context.wrap_bio(arrived, leaves)
    sender = threading.Thread(target=send_all, args=(records, sock))
    sender.start()

    def go_on(step: object) -> bytes | None:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                if leaves.pending:
                    records.put(leaves.read())
                arrived.write(sock.recv(65536))
            else:
                if leaves.pending:
                    records.put(leaves.read())
                return done

    try:
        go_on(tls.do_handshake)
        go_on(lambda: tls.write(LINE))
        print(go_on(lambda: tls.read(1000)), file=sys.stderr)
    except OSError as err:
        print(err, file=sys.stderr)
        return 1
    finally:
        records.put(b"")
        sender.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
