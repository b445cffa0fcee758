# SPDX-License-Identifier: Apache-2.0
"""Speaks through a program that carries its stdin: tls_feed.py UNTIL PIECES TEXT COMMAND...

Writes TEXT to the command in PIECES writes, each after the last was read, and copies what it prints
to stdout. Exits with 0 once UNTIL was in that, after ending the command, and with 1 if it ends
before. Until then the command's stdin stays open.
"""

from __future__ import annotations

import array
import fcntl
import os
import subprocess
import sys
import termios
import time

_LOOK_AGAIN_S = 0.002


def main(until: str, pieces: str, text: str, *command: str) -> int:
    """Run the command; return the exit code."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        _write(child, child.stdin.fileno(), text.encode(), int(pieces))
        answers = b""
        while until.encode() not in answers:
            data = os.read(child.stdout.fileno(), 65536)
            if not data:
                print(f"tls_feed: {command[0]} ended", file=sys.stderr)
                return 1
            os.write(1, data)
            answers += data
        return 0
    finally:
        child.kill()
        child.wait()


def _write(child: subprocess.Popen[bytes], to: int, text: bytes, pieces: int) -> None:
    done = 0
    try:
        for i in range(1, pieces + 1):
            end = len(text) * i // pieces
            if end > done:
                os.write(to, text[done:end])
            done = end
            while i < pieces and _waits(to) and child.poll() is None:
                time.sleep(_LOOK_AGAIN_S)
    except BrokenPipeError:
        print("tls_feed: it reads no more", file=sys.stderr)


def _waits(pipe: int) -> bool:
    # Both ends of a pipe tell how much is in it.
    size = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, size)
    return size[0] > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
