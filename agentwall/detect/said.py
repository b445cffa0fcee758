# SPDX-License-Identifier: Apache-2.0
"""What a flow says of itself, and the host names it says it with.

``bpf/host.bpf.c`` reads names the same way.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from agentwall.net.domain import MAX_LABEL, MAX_NAME

_NAME_CHARACTERS = re.compile(rb"[A-Za-z0-9_.:-]*")
_ADDRESS_CHARACTERS = re.compile(rb"[0-9A-Fa-f.:]+")
_PORT = re.compile(rb"[0-9]+")


class Outcome(enum.Enum):
    """``enum aw_said``."""

    NOTHING_YET = 0
    NAME = 1
    NO_NAME = 2
    """TLS without a server name, HTTP without Host, or an IP address in its place."""
    ECH = 3
    """An encrypted hello; the outer name, if there is one, is what is known."""
    OTHER = 4
    """Neither TLS nor HTTP."""
    BROKEN = 5
    """It cannot be told what a server would read in it."""


class Kind(enum.Enum):
    """``enum aw_kind``: which protocol said it."""

    TLS = 1
    ORIGIN = 2
    """An HTTP request for the server itself."""
    ABSOLUTE = 3
    """An HTTP request for a whole URL, as proxies get it."""
    CONNECT = 4
    OTHER = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One thing that was said."""

    outcome: Outcome
    kind: Kind | None = None
    name: str | None = None
    """In its one form (``agentwall.net.domain``)."""
    port: int | None = None
    """That CONNECT or a whole URL names."""
    tunnelled: bool = False
    """Said behind a CONNECT to this name."""


NOTHING_YET = Said(outcome=Outcome.NOTHING_YET)
OTHER = Said(outcome=Outcome.OTHER, kind=Kind.OTHER)
BROKEN = Said(outcome=Outcome.BROKEN)


class BrokenError(Exception):
    """What was read cannot be what it began as."""


class EndError(Exception):
    """What was read ends before it is whole."""


def read_host(text: bytes) -> str | None:
    """Read a server name (RFC 6066 section 3), at least one octet.

    Returns:
        The name in its one form, or nothing for an IP address.

    Raises:
        BrokenError: It is neither.
    """
    labels = text.removesuffix(b".").split(b".")
    if not all(0 < len(label) <= MAX_LABEL for label in labels):
        raise BrokenError
    if not _NAME_CHARACTERS.fullmatch(text):
        raise BrokenError
    if b":" in text:
        if not _ADDRESS_CHARACTERS.fullmatch(text):
            raise BrokenError
        return None
    name = b".".join(labels)
    if len(name) > MAX_NAME:
        raise BrokenError
    return None if labels[-1].isdigit() else name.decode("ascii").lower()


def read_authority(text: bytes) -> tuple[str | None, int | None]:
    """Read a host and its port (RFC 3986 section 3.2, without user information).

    Returns:
        The name, or nothing for an IP address or no text; and the port where one is given.

    Raises:
        BrokenError: It is not of that form.
    """
    if not text:
        return None, None
    if text.startswith(b"["):
        inside, bracket, rest = text[1:].partition(b"]")
        if not bracket or not _ADDRESS_CHARACTERS.fullmatch(inside):
            raise BrokenError
        if rest and not rest.startswith(b":"):
            raise BrokenError
        return None, _read_port(rest[1:]) if rest else None
    host, colon, port = text.partition(b":")
    if not host:
        raise BrokenError
    return read_host(host), _read_port(port) if colon else None


def _read_port(digits: bytes) -> int:
    if not _PORT.fullmatch(digits) or not 0 < int(digits) <= 65535:
        raise BrokenError
    return int(digits)
