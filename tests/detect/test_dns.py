# SPDX-License-Identifier: Apache-2.0
"""DNS messages as other programs write them are read; what is not plain is refused."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRROPT

from agentwall.detect.dns import (
    DnsAddress,
    DnsAnswer,
    DnsQuestion,
    name_hash,
    read_answer,
    read_question,
)

HUB = b"\x03hub\x07example\x00"
AT_HUB = b"\xc0\x0c"
ASKED = DnsQuestion(id=0x1234, type=1, name="hub.example")


def ask(name: bytes = HUB, kind: int = 1, klass: int = 1, *, flags: int = 0x0100) -> bytes:
    """A question and nothing else."""
    return header(flags, 1, 0) + name + short(kind) + short(klass)


def header(flags: int, questions: int, answers: int, more: int = 0) -> bytes:
    return b"".join(short(word) for word in (0x1234, flags, questions, answers, 0, more))


def short(number: int) -> bytes:
    return number.to_bytes(2, "big")


def record(owner: bytes, kind: int, data: bytes, *, ttl: int = 60, klass: int = 1) -> bytes:
    return owner + short(kind) + short(klass) + ttl.to_bytes(4, "big") + short(len(data)) + data


def reply(*records: bytes, flags: int = 0x8180, count: int | None = None) -> bytes:
    """An answer to the question after hub.example."""
    counted = len(records) if count is None else count
    return header(flags, 1, counted) + HUB + short(1) + short(1) + b"".join(records)


def addresses(message: bytes) -> list[str] | None:
    found = read_answer(message)
    return None if found is None else [str(entry.address) for entry in found.addresses]


A1, A2 = (bytes([192, 0, 2, number]) for number in (1, 2))


@pytest.mark.parametrize("additional", [[], [DNSRROPT(rclass=1232)], [DNSRROPT(z=0x8000)]])
def test_question_of_scapy(additional):
    """A query as scapy writes it is read: id, type, and the name in lower case."""
    question = DNSQR(qname="Hub.Example", qtype="AAAA")
    message = bytes(DNS(id=7, rd=1, ad=1, qd=question, ar=additional))

    assert read_question(message) == DnsQuestion(id=7, type=28, name="hub.example")


def test_answer_of_scapy():
    """An answer as scapy writes it is read: both kinds of address, through an alias."""
    records = [
        DNSRR(rrname="hub.example.", type="CNAME", rdata="edge.example.", ttl=10),
        DNSRR(rrname="edge.example.", type="A", rdata="192.0.2.7", ttl=20),
        DNSRR(rrname="EDGE.example.", type="AAAA", rdata="2001:db8::7", ttl=30),
    ]
    message = bytes(DNS(id=7, qr=1, rd=1, ra=1, qd=DNSQR(qname="hub.example"), an=records))

    assert read_answer(message) == DnsAnswer(
        question=DnsQuestion(id=7, type=1, name="hub.example"),
        addresses=(
            DnsAddress(address=ip_address("192.0.2.7"), ttl_s=20),
            DnsAddress(address=ip_address("2001:db8::7"), ttl_s=30),
        ),
    )


@pytest.mark.parametrize("flags", [0x0000, 0x0100, 0x0120, 0x0110, 0x0130])
def test_flags_of_questions(flags):
    """Recursion desired, authentic data and checking disabled say nothing."""
    assert read_question(ask(flags=flags)) == ASKED


@pytest.mark.parametrize("bit", [15, 14, 13, 12, 11, 10, 9, 7, 6, 3, 2, 1, 0])
def test_other_flags(bit):
    """Any other flag, opcode or code makes it no plain question."""
    assert read_question(ask(flags=1 << bit)) is None


@pytest.mark.parametrize("kind", [0, 41, *range(249, 256)])
def test_types_that_are_not_asked(kind):
    """Whole zones, any type and keys are not the data of one name."""
    assert read_question(ask(kind=kind)) is None


@pytest.mark.parametrize("kind", [1, 5, 16, 28, 65, 248, 256, 65535])
def test_types_that_are_asked(kind):
    """Types of data are, known or not."""
    assert read_question(ask(kind=kind)) == DnsQuestion(id=0x1234, type=kind, name="hub.example")


def labels(*sizes: int) -> bytes:
    return b"".join(bytes([size]) + b"a" * size for size in sizes) + b"\0"


@pytest.mark.parametrize(
    "name",
    [labels(1), labels(63), labels(63, 63, 63, 61), labels(*[1] * 127), b"\x05_a-b0\0"],
)
def test_names(name):
    """A name may be as long as names can be, of letters, digits, hyphens and underscores."""
    found = read_question(ask(name))

    assert found is not None
    assert len(found.name) == len(name) - 2


@pytest.mark.parametrize(
    "name",
    [
        b"\0",  # the root
        labels(63, 63, 63, 62),
        labels(*[1] * 127, 1),
        b"\x40" + b"a" * 64 + b"\0",
        b"\x03a.b\0",
        b"\x03a b\0",
        b"\x03a\0b\0",
        b"\x02\xc3\xbc\0",
        b"\x01*\0",
        b"\xc0\x0c",
        b"\x01a\xc0\x0c",
        b"\x03hu",
    ],
)
def test_names_that_are_refused(name):
    """The root, long names and labels, other octets and pointers are not read."""
    assert read_question(ask(name)) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        ask()[:11],
        ask()[:-1],
        ask() + b"\0",
        ask(klass=3),
        ask(klass=255),
        header(0x0100, 0, 0),
        header(0x0100, 2, 0) + 2 * ask()[12:],
        reply(record(AT_HUB, 1, A1), flags=0x0100),
        ask() + bytes(4096),
    ],
)
def test_not_one_plain_question(message):
    """Cut, followed by something, of another class, none, two, or with a record: no question."""
    assert read_question(message) is None


@pytest.mark.parametrize(
    ("rest", "plain"),
    [
        (record(b"\0", 41, b"", klass=1232, ttl=0), True),
        (record(b"\0", 41, bytes(300), klass=4096, ttl=0x8000), True),
        (record(b"\0", 41, b"", ttl=1 << 16), False),  # version 1
        (record(b"\0", 41, b"", ttl=0) + b"\0", False),
        (record(b"\0", 41, b"12", ttl=0)[:-1], False),
        (record(AT_HUB, 41, b"", ttl=0), False),
        (record(b"\0", 250, b"", ttl=0), False),  # TSIG
        (b"", False),
    ],
)
def test_edns(rest, plain):
    """One OPT record of version 0 may follow the question, with any options, and nothing else."""
    message = header(0x0100, 1, 0, more=1) + HUB + short(1) + short(1) + rest

    assert read_question(message) == (ASKED if plain else None)


ALIAS, FAR = b"\x05alias\x07example\0", b"\x03far\x07example\0"


@pytest.mark.parametrize(
    "records",
    [
        [record(AT_HUB, 5, ALIAS), record(ALIAS, 5, FAR), record(FAR, 1, A1)],
        [record(FAR, 1, A1), record(ALIAS, 5, FAR), record(AT_HUB, 5, ALIAS)],
        [record(AT_HUB, 5, ALIAS), record(ALIAS.upper(), 1, A1)],
        [record(AT_HUB, 5, HUB), record(HUB, 1, A1)],
    ],
)
def test_aliases(records):
    """Addresses of what the name is an alias of count, in whatever order the records stand."""
    assert addresses(reply(*records)) == ["192.0.2.1"]


@pytest.mark.parametrize(
    "strays",
    [
        [record(FAR, 1, A2)],
        [record(FAR, 5, AT_HUB)],  # an alias of the name, not the name's
        [record(AT_HUB, 1, A2, klass=3)],
        [record(AT_HUB, 1, A2 + A2)],
        [record(AT_HUB, 28, A2)],
        [record(AT_HUB, 65, b"\0\1\0\0\4\0\4" + A2)],  # HTTPS with ipv4hint
        [record(AT_HUB, 39, FAR), record(FAR, 1, A2)],  # DNAME
        [record(AT_HUB, 16, b"\x03abc")],
        [record(b"\0", 1, A2)],
    ],
)
def test_what_is_passed_over(strays):
    """Other owners, classes, lengths and types give no address, and do not hide one."""
    assert addresses(reply(*strays, record(AT_HUB, 1, A1))) == ["192.0.2.1"]


def test_longest_chain():
    """Sixteen names are followed, the one asked for among them, and no more."""
    names = [HUB, *(bytes([2]) + b"%02d" % number + b"\0" for number in range(1, 17))]
    links = [record(owner, 5, to) for owner, to in pairwise(names)]

    assert addresses(reply(*links, record(names[15], 1, A1))) == ["192.0.2.1"]
    assert addresses(reply(*links, record(names[16], 1, A1))) == []


@pytest.mark.parametrize(("records", "taken"), [(31, 31), (32, 32), (33, 32)])
def test_most_addresses(records, taken):
    """The first thirty-two addresses are taken."""
    message = reply(*(record(AT_HUB, 1, bytes([10, 0, 0, n])) for n in range(records)))

    assert addresses(message) == [f"10.0.0.{n}" for n in range(taken)]


@pytest.mark.parametrize(("others", "found"), [(63, ["192.0.2.1"]), (64, [])])
def test_most_records(others, found):
    """The first sixty-four records are walked."""
    padding = [record(AT_HUB, 16, b"")] * others

    assert addresses(reply(*padding, record(AT_HUB, 1, A1))) == found


def test_records_after_the_answer_section():
    """What follows the counted records is not looked at."""
    assert addresses(reply(record(AT_HUB, 1, A1), record(AT_HUB, 1, A2), count=1)) == ["192.0.2.1"]


@pytest.mark.parametrize("missing", range(1, 17))
def test_message_that_ends_early(missing):
    """Records before the one that is cut off count."""
    whole = reply(record(AT_HUB, 1, A1), record(AT_HUB, 1, A2))

    assert addresses(whole[:-missing]) == ["192.0.2.1"]


@pytest.mark.parametrize("flags", [0x8380, 0x8183, 0x8182, 0x8185])
def test_answers_without_addresses(flags):
    """A truncated answer and an error are answers, of which no record is believed."""
    assert addresses(reply(record(AT_HUB, 1, A1), flags=flags)) == []


@pytest.mark.parametrize("flags", [0x0180, 0x8980, 0xF980])
def test_no_answer(flags):
    """A question is no answer, nor is what answers another kind of question."""
    assert addresses(reply(record(AT_HUB, 1, A1), flags=flags)) is None


@pytest.mark.parametrize(
    "owner",
    [
        short(0xC000 | 29),  # to itself
        short(0xC000 | 31),  # forwards
        b"\x01a" + short(0xC000 | 29),  # into its own labels
        short(0xC000 | 11),  # into the header
        b"\x40" + bytes(64) + b"\0",
        b"\x80\0",
        labels(63, 63, 63, 62),
    ],
)
def test_names_that_cannot_be_read(owner):
    """A pointer that does not lead back, a strange label and a long name spoil the answer."""
    assert len(reply()) == 29
    assert addresses(reply(record(owner, 1, A1))) is None


def test_alias_that_ends_elsewhere():
    """A name that does not fill its CNAME record spoils the answer."""
    assert addresses(reply(record(AT_HUB, 5, FAR + b"\0"), record(FAR, 1, A1))) is None


def test_dot_inside_a_label():
    """A label with a dot in it is not taken for two labels."""
    dotted = b"\x0bhub.example\0"

    assert addresses(reply(record(dotted, 1, A1))) == []
    assert addresses(reply(record(AT_HUB, 5, dotted), record(dotted, 1, A1))) == []


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(0, 0), (60, 60), (2**31 - 1, 2**31 - 1), (2**31, 0), (2**32 - 1, 0)]
)
def test_ttl(ttl, seconds):
    """A lifetime with the top bit set is none (RFC 2181 section 8)."""
    found = read_answer(reply(record(AT_HUB, 1, A1, ttl=ttl)))

    assert found is not None
    assert [entry.ttl_s for entry in found.addresses] == [seconds]


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("64:ff9b::c000:201", "192.0.2.1"),
        ("2002:c000:201::1", "192.0.2.1"),
        ("64:ff9b::7f00:1", "0.0.0.0"),
        ("2001:db8::1", "2001:db8::1"),
        ("::", "::"),
    ],
)
def test_addresses_in_one_form(address, host):
    """An IPv6 address that stands for an IPv4 host is given as that host."""
    assert addresses(reply(record(AT_HUB, 28, ip_address(address).packed))) == [host]


def test_hash():
    """The hash is FNV-1a of the name with its last dot; the seed changes it."""
    # By the published test vectors of FNV-1a 64: "a" xor seed 0 is 0xaf63dc4c8601ec8c.
    start = 0xAF63DC4C8601EC8C

    assert name_hash("a", 0) == (start ^ ord(".")) * 0x100000001B3 % 2**64
    assert name_hash("a", 1) != name_hash("a", 0)


def test_hash_is_never_zero():
    """0 stands for no name: the seed for which a name would have it gives 1."""
    # One octet: (basis ^ seed ^ octet) * prime is 0 only where the first factor is.
    state = ord(".")
    for octet in reversed(b"a"):
        state = state * pow(0x100000001B3, -1, 2**64) % 2**64 ^ octet

    assert name_hash("a", state ^ 0xCBF29CE484222325) == 1


@given(st.binary(max_size=600))
def test_any_bytes(message):
    """Nothing that arrives makes the readers fail."""
    assert isinstance(read_question(message), DnsQuestion | None)
    assert isinstance(read_answer(b"\x12\x34\x81\x80\0\1" + message), DnsAnswer | None)
