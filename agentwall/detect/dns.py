# SPDX-License-Identifier: Apache-2.0
"""DNS messages (RFC 1035 section 4), read as the kernel reads them.

Messages in, questions and addresses out. ``bpf/dns.bpf.c`` and ``bpf/answer.bpf.c`` are the
counterpart that decides: they read by the same rules, and ``tests/agree/test_dns.py`` holds the two
together. A message is given without the length that TCP puts before it. Both readers are strict
with what a sandbox asks, and with what an answer says of names; what else an answer holds is passed
over.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agentwall.net.domain import MAX_LABEL, MAX_NAME
from agentwall.net.endpoint import IPAddress, canonical

MAX_MESSAGE = 4096
"""Bytes of a message that are looked at; a caller cuts off what follows."""
MAX_RECORDS = 64
"""Records of the answer section that are walked."""
MAX_CHAIN = 16
"""Names that one question can lead to, itself among them."""
MAX_ADDRESSES = 32
MAX_JUMPS = 16
"""Compression pointers followed for one name."""

_HEADER = 12
_POINTER = 0xC0
_CLASS_IN = 1
_A, _CNAME, _AAAA, _OPT = 1, 5, 28, 41
_META_TYPES = range(249, 256)
"""TKEY, TSIG, IXFR, AXFR, MAILB, MAILA, ANY (RFC 6895 section 3.1): not the data of one name."""
_NAME_OCTETS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")

_FNV_BASIS = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3
_U64 = 0xFFFF_FFFF_FFFF_FFFF

_Labels = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsQuestion:
    """The one question of a message."""

    id: int
    type: int
    """RFC 1035 section 3.2.2: 1 is A, 28 is AAAA. Never 0, OPT, or a type of 249 to 255."""
    name: str
    """In the one form of :mod:`agentwall.net.domain`, of letters, digits, ``-`` and ``_``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsAddress:
    """One address of an answer."""

    address: IPAddress
    """Canonical; see :func:`agentwall.net.endpoint.canonical`."""
    ttl_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsAnswer:
    """What an answer says of the name that was asked for."""

    question: DnsQuestion
    addresses: tuple[DnsAddress, ...]
    """In the order of the message. None if it was truncated (TC) or is an error (RCODE)."""


class _MalformedError(Exception):
    """The message breaks a rule that both readers keep."""


class _EndedError(Exception):
    """The message ends before what it promises."""


@dataclass(frozen=True, slots=True)
class _Record:
    owner: _Labels | None
    alias_of: _Labels | None = None
    address: DnsAddress | None = None


def read_question(message: bytes) -> DnsQuestion | None:
    """Read a *message* that asks one plain question; return None for anything else.

    Plain: a query (opcode 0) with no flag but RD, AD and CD, one question of class IN and no other
    record but one OPT of EDNS version 0 (RFC 6891), with which it ends.
    """
    asked = _read_asked(message)
    if asked is None:
        return None
    question, at = asked
    if message[2] & 0xFE or message[3] & 0xCF:
        return None
    answers, authorities, additional = (_short(message, offset) for offset in (6, 8, 10))
    if answers or authorities or additional > 1:
        return None
    ends = _is_edns(message[at:]) if additional else at == len(message)
    return question if ends else None


def read_answer(message: bytes) -> DnsAnswer | None:
    """Read the first :data:`MAX_MESSAGE` bytes or fewer of an answer to a question.

    Addresses are those of A and AAAA records of class IN whose owner is the name asked for, or one
    that CNAME records lead to from there, in whatever order they stand. Reading stops at the end of
    *message*: the records before count. Records after the answer section are not looked at.

    Returns:
        None for what is no answer to one question that :func:`read_question` would take, or has a
        name that cannot be read: too long, a label of an unknown type, a pointer that does not lead
        backwards, or more than :data:`MAX_JUMPS` pointers.
    """
    asked = _read_asked(message)
    if asked is None or message[2] & 0xF8 != 0x80:
        return None
    question, at = asked
    truncated, code = message[2] & 0x02, message[3] & 0x0F
    if truncated or code:
        return DnsAnswer(question=question, addresses=())
    try:
        records = _read_records(message, at)
    except _MalformedError:
        return None
    asked_for = tuple(question.name.encode("ascii").split(b"."))
    return DnsAnswer(question=question, addresses=_addresses(asked_for, records))


def name_hash(name: str, seed: int) -> int:
    """Return the 64-bit number that stands for *name* in the kernel's maps; never 0.

    FNV-1a over the name and its last dot, from the offset basis xor *seed* (of ``aw_hash_seed``).
    """
    value = _FNV_BASIS ^ seed
    for octet in (name + ".").encode("ascii"):
        value = (value ^ octet) * _FNV_PRIME & _U64
    return value or 1


# The header's id and counts and the question, common to both, and what offset follows.
def _read_asked(message: bytes) -> tuple[DnsQuestion, int] | None:
    if not _HEADER <= len(message) <= MAX_MESSAGE or _short(message, 4) != 1:
        return None
    labels: list[str] = []
    at = _HEADER
    while at < len(message) and message[at]:
        size = message[at]
        label = message[at + 1 : at + 1 + size].lower()
        if size > MAX_LABEL or not _NAME_OCTETS.issuperset(label):
            return None
        labels.append(label.decode("ascii"))
        at += 1 + size
    name = ".".join(labels)
    if at + 5 > len(message) or not name or len(name) > MAX_NAME:
        return None
    kind = _short(message, at + 1)
    if kind in (0, _OPT) or kind in _META_TYPES or _short(message, at + 3) != _CLASS_IN:
        return None
    return DnsQuestion(id=_short(message, 0), type=kind, name=name), at + 5


def _is_edns(rest: bytes) -> bool:
    if len(rest) < 11 or rest[0] or _short(rest, 1) != _OPT:
        return False
    version = rest[6]
    return version == 0 and 11 + _short(rest, 9) == len(rest)


def _read_records(message: bytes, at: int) -> list[_Record]:
    records = []
    for _ in range(min(_short(message, 6), MAX_RECORDS)):
        try:
            record, at = _read_record(message, at)
        except _EndedError:
            break
        records.append(record)
    return records


def _read_record(message: bytes, at: int) -> tuple[_Record, int]:
    owner, at = _read_name(message, at)
    data = at + 10
    if data > len(message):
        raise _EndedError
    kind, record_class = _short(message, at), _short(message, at + 2)
    ttl_s = int.from_bytes(message[at + 4 : at + 8], "big")
    if ttl_s >= 1 << 31:
        ttl_s = 0  # RFC 2181 section 8
    end = data + _short(message, at + 8)
    if end > len(message):
        raise _EndedError
    if record_class != _CLASS_IN:
        return _Record(owner), end
    if kind == _CNAME:
        alias_of, after = _read_name(message, data)
        if after != end:
            raise _MalformedError
        return _Record(owner, alias_of=alias_of), end
    address = _address(kind, message[data:end])
    if address is None:
        return _Record(owner), end
    return _Record(owner, address=DnsAddress(address=canonical(address), ttl_s=ttl_s)), end


def _address(kind: int, data: bytes) -> IPAddress | None:
    if kind == _A and len(data) == 4:
        return IPv4Address(data)
    if kind == _AAAA and len(data) == 16:
        return IPv6Address(data)
    return None


# Names here may hold any octets. None stands for those that no question can lead to: the root, and
# a name with a dot inside a label, which would look like two labels. Pointers lead below where the
# run of labels that they end began, so that following them comes to an end.
def _read_name(message: bytes, at: int) -> tuple[_Labels | None, int]:
    labels: list[bytes] = []
    octets, jumps, floor, after = 0, 0, at, 0
    while True:
        if at >= len(message):
            raise _EndedError
        size = message[at]
        if size == 0:
            break
        if size >= _POINTER:
            if at + 2 > len(message):
                raise _EndedError
            target = _short(message, at) & 0x3FFF
            if not _HEADER <= target < floor or jumps == MAX_JUMPS:
                raise _MalformedError
            after = after or at + 2
            jumps += 1
            at = floor = target
            continue
        octets += 1 + size
        if size > MAX_LABEL or octets > MAX_NAME + 1:
            raise _MalformedError
        if at + 1 + size > len(message):
            raise _EndedError
        labels.append(message[at + 1 : at + 1 + size].lower())
        at += 1 + size
    readable = labels and not any(b"." in label for label in labels)
    return tuple(labels) if readable else None, after or at + 1


def _addresses(asked_for: _Labels, records: list[_Record]) -> tuple[DnsAddress, ...]:
    chain = [asked_for]
    for name in chain:  # grows as it is read
        chain += [
            record.alias_of for record in records if record.owner == name and record.alias_of
        ][: MAX_CHAIN - len(chain)]
    found = [r.address for r in records if r.address is not None and r.owner in chain]
    return tuple(found[:MAX_ADDRESSES])


def _short(message: bytes, at: int) -> int:
    return int.from_bytes(message[at : at + 2], "big")
