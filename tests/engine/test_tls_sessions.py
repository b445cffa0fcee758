# SPDX-License-Identifier: Apache-2.0
"""TLS sessions become few records, and what each offered is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.records import CURL, SECOND
from rig.sights import KEY, POLICY, RULES, TABLES, engine_of
from rig.tls_records import LIBSSL, OFF, PYTHON_HELLO, READ, STATIC, hello_read, named_hello, tls

from agentwall.engine.commands import Report
from agentwall.engine.events import RulesApplied, SandboxFinished
from agentwall.engine.tls_sessions import (
    AGAIN_NS,
    MAX_KINDS,
    MAX_NAME,
    MAX_OFFERS,
    MAX_TOLD,
    MINUTE_NS,
    NOTHING,
    TlsSessions,
    read_offer,
)
from agentwall.flow.record import StateRecord, TlsRecord
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.policy.model import Inspect

HELLO = named_hello(b"pool.example", b"h2", b"http/1.1")
READINGS = (None, READ, STATIC, OFF, replace(READ, library=TlsLibrary.NSS))


def session(pid: int = 1, at_s: float = 0, reading: TlsReading | None = READ, **changes: object):
    return tls(reading, process=replace(CURL, pid=pid), mono_ns=int(at_s * SECOND), **changes)


def told(sessions: TlsSessions, *records: TlsRecord) -> list[TlsRecord]:
    return [each for record in records for each in sessions.see(record)]


def test_what_a_real_hello_offers():
    """The name, and a fingerprint that says TLS 1.3 with a name."""
    offer = read_offer(PYTHON_HELLO)

    assert offer.server_name == "pool.example"
    assert offer.ja4 is not None
    assert offer.ja4.startswith("t13d")
    assert offer.evidence() == {"sni": "pool.example", "ja4": offer.ja4}


def test_what_a_cut_hello_offers():
    """What came whole is known, and no fingerprint is made of a part."""
    whole = named_hello(b"Pool.Example.", b"h2", b"http/1.1")
    cut = read_offer(whole[:-1])

    assert read_offer(whole).alpn == ("h2", "http/1.1")
    assert (cut.server_name, cut.alpn, cut.ja4) == ("pool.example", (), None)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc"]))
def test_any_octets_offer_something_bounded(data, head):
    """Nothing that a sandbox sends is too much, or wrong."""
    offer = read_offer(head + data)

    assert len(offer.server_name or "") <= MAX_NAME


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255), st.integers(0, len(HELLO)))
def test_damaged_hellos(at, octet, end):
    """A hello with another octet somewhere, cut off anywhere, is read as far as it goes."""
    data = bytearray(HELLO)
    data[at] = octet

    assert len(read_offer(bytes(data[:end])).alpn) <= 8


def test_names_of_octets():
    """What is no ASCII is spelt, and what is long is cut."""
    offer = read_offer(named_hello(b"\xff\x1b" + b"a" * 400, *[b"\x80" * 200] * 20))

    assert offer.server_name.startswith("\\xff\x1ba")
    assert len(offer.server_name) == MAX_NAME
    assert len(offer.alpn) == 8
    assert all(len(each) == 32 for each in offer.alpn)


def test_offers_are_bounded():
    """The first of very many is forgotten; no cookie is no key."""
    sessions = TlsSessions()
    for cookie in range(MAX_OFFERS + 2):
        sessions.learn(hello_read(cookie=cookie).hello)

    assert sessions.offer(0) == NOTHING
    assert sessions.offer(1) == NOTHING
    assert sessions.offer(2).server_name == "pool.example"
    assert sessions.offer(2) is sessions.offer(MAX_OFFERS)


def test_once_a_process():
    """However many sessions there are, a process is told of once, and what follows at the end."""
    sessions = TlsSessions()
    first = told(sessions, *[session(server_name=f"{n}.example") for n in range(100)])
    other = told(sessions, session(pid=2))
    rest = list(sessions.end())

    assert [(each.server_name, each.count) for each in first] == [("0.example", 1)]
    assert [each.process.pid for each in other] == [2]
    assert [(each.server_name, each.count) for each in rest] == [("99.example", 99)]
    assert list(sessions.end()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"reading": STATIC},
        {"reading": None},
        {"is_joined": False},
        {"reading": replace(READ, library=TlsLibrary.GNUTLS)},
        {"process": replace(CURL, pid=1, exe="/bin/other")},
    ],
)
def test_another_way(changes):
    """A process that comes to be read in another way, or not any more, is told of again, once."""
    sessions = TlsSessions()
    other = replace(session(), **changes)

    assert told(sessions, session(), other, session(), other) == [session(), other]


def test_again():
    """A process that goes on for long is told of with the count of what it did meanwhile."""
    sessions = TlsSessions()
    hours = [session(at_s=second) for second in range(0, AGAIN_NS // SECOND + 2, 1)]
    found = told(sessions, *hours)

    assert [each.count for each in found] == [1, AGAIN_NS // SECOND]
    assert [each.count for each in sessions.end()] == [1]


def test_a_flood_of_processes():
    """In a minute so many are told of; the others are a sum by reason, without a process."""
    sessions = TlsSessions()
    minute = told(sessions, *[session(pid, reading=STATIC) for pid in range(1, 1001)])
    later = told(sessions, session(2000, at_s=MINUTE_NS / SECOND, reading=STATIC))

    assert len(minute) == MAX_TOLD
    assert [(each.process and each.process.pid, each.count) for each in later] == [
        (2000, 1),
        (None, 1000 - MAX_TOLD),
    ]
    assert later[1].reading == STATIC


def test_processes_are_bounded():
    """The one heard of longest ago goes, and its sessions are not lost."""
    sessions = TlsSessions()
    found = told(sessions, session(1), session(1))
    for pid in range(2, MAX_KINDS + 2):
        found += told(sessions, session(pid, at_s=pid * 2))
    found += sessions.end()

    assert found[-1].process is None
    assert sum(each.count for each in found) == MAX_KINDS + 2


SEEN = st.lists(
    st.tuples(
        st.integers(1, 400),
        st.floats(0, 300),
        st.sampled_from(READINGS),
        st.booleans(),
    ),
    max_size=200,
)


@given(SEEN, st.integers(1, 5))
def test_nothing_is_lost(seen, times):
    """The counts of what is told add up to what was seen, in any order of times."""
    sessions = TlsSessions()
    records = [
        session(pid, at_s, reading, is_joined=is_joined) for pid, at_s, reading, is_joined in seen
    ] * times
    found = [*told(sessions, *records), *sessions.end()]
    counts = sessions.counts

    assert sum(each.count for each in found) == len(records) == counts.hellos
    assert counts.joined + sum(counts.unread.values()) == counts.hellos
    assert sum(each.count for each in found if each.is_joined) == counts.joined


@given(st.lists(st.integers(0, 59_999_999_999), min_size=1, max_size=300))
def test_few_records(times):
    """Within a minute there are never more records than the bound, whoever speaks."""
    sessions = TlsSessions()
    records = [session(pid, ns / SECOND) for pid, ns in enumerate(sorted(times), 1)]

    assert len(told(sessions, *records)) == min(len(records), MAX_TOLD)


def test_counts():
    """By reason; a second TLS beside the library that is read has none."""
    sessions = TlsSessions()
    told(
        sessions,
        session(),
        session(is_joined=False),
        session(reading=STATIC),
        session(reading=STATIC),
        session(reading=None),
    )

    counts = sessions.counts
    assert (counts.hellos, counts.joined) == (5, 1)
    assert counts.unread == {None: 2, Unread.STATIC: 2}


def test_engine():
    """A hello is a record with rule, time and what was offered; the end tells the sums."""
    engine = engine_of()
    [report] = engine.handle(hello_read(name="learned.example"))
    again = list(engine.handle(hello_read(cookie=10)))
    last = [each.record for each in engine.handle(SandboxFinished(key=KEY, mono_ns=10**10))]

    assert isinstance(report, Report)
    record = report.record
    assert isinstance(record, TlsRecord)
    assert (record.time_ns, record.mono_ns) == (10**18 + 1000, 1000)
    assert (record.name, record.server_name) == ("learned.example", "pool.example")
    assert (record.reason.rule, record.process.exe) == ("p:allow[0]", CURL.exe)
    assert (record.reading, record.is_joined, record.count) == (READ, True, 1)
    assert again == []
    assert [type(each) for each in last] == [TlsRecord, StateRecord]
    assert last[1].detail["tls_sessions"] == last[1].detail["tls_read"] == 2


@pytest.mark.parametrize(
    ("reading", "path"),
    [
        (None, None),
        (STATIC, None),
        (OFF, None),
        (replace(READ, library=TlsLibrary.NSS), None),
        (replace(READ, unread=Unread.LATE), LIBSSL),
        (READ, LIBSSL),
    ],
)
def test_the_kernel_knows_the_library(reading, path):
    """A session that is read is one of the library that a probe told of."""
    [report] = engine_of().handle(hello_read(reading=reading))
    [other] = engine_of().handle(hello_read(reading=reading, library=None))

    assert report.record.reading == TlsReading(library=TlsLibrary.OPENSSL, path=path, unread=None)
    assert (other.record.reading, other.record.is_joined) == (reading, False)


@pytest.mark.parametrize("inspect", [Inspect.WIRE, Inspect.NONE])
@pytest.mark.parametrize("library", [TlsLibrary.OPENSSL, None])
def test_what_a_rule_spares(inspect, library):
    """A session behind a rule that says not to read it is none that is read, and says why."""
    spared = replace(TABLES, rules=(replace(RULES[0], inspect=inspect),))
    engine = engine_of()
    applied = RulesApplied(key=KEY, mono_ns=7, generation=4, policy=POLICY, tables=spared)
    list(engine.handle(applied))
    [report] = engine.handle(hello_read(library=library, generation=4))

    assert report.record.reading == TlsReading(library=None, path=None, unread=Unread.POLICY)
    assert not report.record.is_joined
    assert engine.tls_counts(KEY).unread == {Unread.POLICY: 1}


def test_engine_without_tls():
    """A sandbox that speaks no TLS has nothing to count."""
    engine = engine_of()
    [last] = engine.handle(SandboxFinished(key=KEY, mono_ns=10**10))

    assert engine.tls_counts(KEY) is None
    assert "tls_sessions" not in last.record.detail


def test_engine_counts():
    """Whoever asks is told how many there were so far."""
    engine = engine_of()
    list(engine.handle(hello_read(reading=STATIC, library=None)))

    assert engine.tls_counts(KEY).unread == {Unread.STATIC: 1}
