# SPDX-License-Identifier: Apache-2.0
"""DNS record types as text: ``A``, ``HTTPS``, and ``TYPE65280`` for what has no name here. Pure."""

from __future__ import annotations

import re

_NAMES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    10: "NULL",
    12: "PTR",
    13: "HINFO",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    29: "LOC",
    33: "SRV",
    35: "NAPTR",
    39: "DNAME",
    43: "DS",
    44: "SSHFP",
    46: "RRSIG",
    47: "NSEC",
    48: "DNSKEY",
    52: "TLSA",
    64: "SVCB",
    65: "HTTPS",
    251: "IXFR",
    252: "AXFR",
    255: "ANY",
    256: "URI",
    257: "CAA",
}
# Source: IANA, Domain Name System (DNS) Parameters, Resource Record (RR) TYPEs.
_NUMBERS = {name: number for number, name in _NAMES.items()}
_UNNAMED = re.compile(r"TYPE(0|[1-9][0-9]{0,4})", re.ASCII)
_LAST_TYPE = 0xFFFF


def type_name(number: int) -> str:
    """Return the name of a type, 0 to 65535, or ``TYPE<n>`` (RFC 3597 section 5)."""
    return _NAMES.get(number) or f"TYPE{number}"


def parse_type(text: str) -> int:
    """Return the number of a type that :func:`type_name` spelled.

    Raises:
        ValueError: It is no such text.
    """
    number = _NUMBERS.get(text)
    if number is not None:
        return number
    found = _UNNAMED.fullmatch(text)
    if found is None or int(found[1]) > _LAST_TYPE:
        raise ValueError(f"expected a DNS record type such as AAAA or TYPE65280, got {text[:20]!r}")
    return int(found[1])
