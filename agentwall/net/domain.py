# SPDX-License-Identifier: Apache-2.0
"""Domain names and the patterns that policies write: ``x``, ``*.x`` and ``**.x``.

A name is held in one form: lower case, A-labels, without the trailing dot (RFC 1035 section 2.3.1,
RFC 5890). What a sandbox asks or says is compared in that form and no other.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import NoReturn

import idna

MAX_NAME = 253
"""Characters of a name without its trailing dot (RFC 1035 section 2.3.4: 255 bytes on the wire)."""
MAX_LABEL = 63
"""Octets of a label (RFC 1035 section 2.3.4)."""

_SHOWN = 60
_LONGEST_WRITTEN = 1024
"""Characters beyond which nothing is a name, however it is written: encoding them takes long."""

# Hosts have no underscore (RFC 952), but what services are found by has (RFC 8552), and so have
# names that people gave to containers. Dashes in the third and fourth place are in use as well.
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_LABEL = re.compile(r"[a-z0-9_-]*")
# What inet_aton(3), and so getaddrinfo, takes for an address without asking anybody.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_UNWRITABLE = re.compile(r"[\x00-\x20\x7f-\xa0\s]")
_PORT_END = re.compile(r"[^:]+:(?P<port>[0-9*]+)")


class NameDepth(enum.Enum):
    """How far below its name a pattern matches; the name itself (apex) is never implied."""

    EXACT = "x"
    LABEL = "*.x"
    """Exactly one label more."""
    BELOW = "**.x"
    """One label more, or any number."""


@dataclass(frozen=True, slots=True, order=True)
class NamePattern:
    """What a ``host`` rule matches."""

    name: str
    """The name in its one form; of ``*.x`` and ``**.x`` the ``x``."""
    depth: NameDepth

    def matches(self, name: str) -> bool:
        """Say whether the pattern holds *name*, which is in its one form."""
        if self.depth is NameDepth.EXACT:
            return name == self.name
        above = name.removesuffix("." + self.name)
        if above == name:
            return False
        return self.depth is NameDepth.BELOW or "." not in above

    def __str__(self) -> str:
        return self.depth.value.replace("x", self.name)


def parse_name(text: str) -> str:
    """Return the name *text* in its one form; Unicode is encoded (RFC 5891, UTS 46).

    Raises:
        ValueError: ``expected X, got Y``, for the caller to put a place in front of.
    """
    name = text.lower() if text.isascii() else _encoded(text)
    name = name.removesuffix(".")
    # Nearly all names pass here: a list may have 100 000 of them.
    if _NAME.fullmatch(name) is None or len(name) > MAX_LABEL or "xn--" in name:
        _check_labels(name, text)
    if name[-1] in "0123456789abcdefx" and _NUMERIC_END.fullmatch(name):
        raise ValueError(f"expected a name, got the address {_shown(text)}; use cidr for addresses")
    return name


def parse_pattern(text: str) -> NamePattern:
    """Parse ``x``, ``*.x`` or ``**.x``.

    Raises:
        ValueError: ``expected X, got Y``, for the caller to put a place in front of.
    """
    if text in ("*", "**", "*.", "**."):
        raise ValueError(f"expected a name after the star, such as *.example.com, got {text!r}")
    if text.startswith("*."):
        return NamePattern(parse_name(text[2:]), NameDepth.LABEL)
    if text.startswith("**."):
        return NamePattern(parse_name(text[3:]), NameDepth.BELOW)
    return NamePattern(parse_name(text), NameDepth.EXACT)


def unicode_name(name: str) -> str:
    """Return *name*, which is in its one form, as people read it: A-labels decoded."""
    return ".".join(
        idna.ulabel(label) if label.startswith("xn--") else label for label in name.split(".")
    )


def name_key(name: str) -> bytes:
    """Return *name* as ``struct aw_name_key`` holds it: reversed, each label with its dot.

    ``hub.example.com`` is ``moc.elpmaxe.buh.``: a suffix of whole labels is a prefix of it.
    """
    return (name + ".").encode("ascii")[-2::-1] + b"."


def _encoded(text: str) -> str:
    """Return *text*, which is not ASCII, mapped and encoded, its trailing dot kept."""
    if len(text) > _LONGEST_WRITTEN or _UNWRITABLE.search(text):
        _refuse(text)
    try:
        # Not transitional: a sharp s stays one (UTS 46 section 4). What the rules for host names
        # would refuse here (std3_rules), such as underscores, is judged label by label.
        mapped = idna.uts46_remap(text, std3_rules=False, transitional=False)
        labels = [
            label if label.isascii() else idna.alabel(label).decode("ascii")
            for label in mapped.split(".")
        ]
    except UnicodeError as err:
        raise ValueError(f"expected a name that can be encoded, got {_shown(text)}: {err}") from err
    return ".".join(labels)


def _check_labels(name: str, text: str) -> None:
    """Refuse *name*, which was written as *text*, with the reason; or find it valid after all."""
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        _refuse(text)
    if "" in labels:
        wanted = "a name" if name == "" else "a name without empty labels"
        raise ValueError(f"expected {wanted}, got {_shown(text)}")
    longest = max(map(len, labels))
    if longest > MAX_LABEL:
        raise ValueError(
            f"expected labels of at most {MAX_LABEL} characters, got {longest} in {_shown(text)}"
        )
    if len(name) > MAX_NAME:
        raise ValueError(
            f"expected at most {MAX_NAME} characters, got {len(name)} in {_shown(text)}"
        )
    for label in labels:
        if label[0] == "-" or label[-1] == "-":
            raise ValueError(
                f"expected labels that neither begin nor end with a dash, got {_shown(text)}"
            )
        if label.startswith("xn--"):
            _check_encoded(label)


def _check_encoded(label: str) -> None:
    try:
        idna.ulabel(label)
    except UnicodeError as err:
        raise ValueError(f"expected a label that decodes, got {_shown(label)}: {err}") from err


def _refuse(text: str) -> NoReturn:
    """Say why *text* cannot be a name, as far as its characters tell."""
    if _UNWRITABLE.search(text):
        wanted = "a name without white space and control characters"
    elif len(text) > _LONGEST_WRITTEN:
        raise ValueError(f"expected at most {MAX_NAME} characters, got {len(text)}")
    elif "*" in text:
        wanted = "* or ** in front of a name only"
    elif "/" in text:
        wanted = "a name alone, without scheme, path or prefix length"
    elif _is_ipv6(text.strip("[]")):
        raise ValueError(f"expected a name, got the address {_shown(text)}; use cidr for addresses")
    elif match := _PORT_END.fullmatch(text):
        wanted = f"a name alone (the port goes into ports: [{match['port']}])"
    else:
        wanted = "letters, digits, dashes, underscores and dots"
    raise ValueError(f"expected {wanted}, got {_shown(text)}")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
