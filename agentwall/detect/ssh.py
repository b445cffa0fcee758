# SPDX-License-Identifier: Apache-2.0
"""The identification string with which each side of SSH begins (RFC 4253 section 4.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BEFORE = 8192
"""Bytes of text lines that a server may send first. The RFC has no limit; OpenSSH reads 1024
lines."""
_IDENTIFICATION = re.compile(rb"SSH-(2\.0|1\.[0-9]{1,2})-([!-~]{1,200})")
_LATER = re.compile(rb"\nSSH-(2\.0|1\.[0-9]{1,2})-([!-~]{1,200})")
_TEXT = re.compile(rb"[\t\r\n -~\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class Identification:
    """What one side calls itself."""

    protocol: str
    """``2.0``, or an older one."""
    software: str
    is_first: bool
    """Whether the stream begins with it; else lines of text stand before it."""


def read_identification(stream: bytes) -> Identification | None:
    """Read the identification of one side, or return None where there is none."""
    match = _IDENTIFICATION.match(stream)
    first = match is not None
    if match is None:
        match = _LATER.search(stream[:MAX_BEFORE])
        if match is None or not _TEXT.fullmatch(stream, 0, match.start()):
            return None
    return Identification(match[1].decode("ascii"), match[2].decode("ascii"), first)
