# SPDX-License-Identifier: Apache-2.0
"""The TLS sessions of one sandbox: what each offered, and who begins them. Bounded, pure.

Sessions in, few records out: a process is told of when it speaks TLS for the first time, and when
it comes to be read in another way. Further sessions are counted and told of later as one record, so
that the counts of all records add up to the sessions that were seen.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

from agentwall.detect.ja4 import ja4, read_beginning, read_hello
from agentwall.flow.record import Process, TlsRecord
from agentwall.flow.tls import HelloSeen, TlsReading, Unread

NS_PER_S = 1_000_000_000
MAX_OFFERS = 512
"""Sessions of one sandbox whose hello is remembered; of more the first goes."""
MAX_KINDS = 128
"""Processes told apart, each by the way it is read; of more the one heard of longest ago goes."""
MAX_TOLD = 64
"""Records in a minute; what is beyond is counted."""
MINUTE_NS = 60 * NS_PER_S
AGAIN_NS = 600 * NS_PER_S
"""After so long a process that goes on is told of again, with the count of its sessions."""
MAX_NAME = 255
_MAX_ALIKE = 64
"""Offers that many sessions share, kept once each."""
_MAX_PROTOCOLS = 8
_MAX_PROTOCOL = 32
_LONG_TEXT = 256
_Key = tuple[Hashable, Hashable]
"""Who, and how it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a ClientHello says, as far as it is shown. Chosen by the sandbox, bounded."""

    server_name: str | None = None
    """SNI: lower case, at most :data:`MAX_NAME` characters."""
    alpn: tuple[str, ...] = ()
    ja4: str | None = None
    """None where the hello was not seen whole."""

    def evidence(self) -> dict[str, object]:
        """Return what there is of it as evidence of a detection."""
        found: dict[str, object] = {}
        if self.server_name is not None:
            found["sni"] = self.server_name
        if self.alpn:
            found["alpn"] = list(self.alpn)
        if self.ja4 is not None:
            found["ja4"] = self.ja4
        return found


NOTHING = Offer()


def read_offer(data: bytes) -> Offer:
    """Return what the ClientHello offers that *data* begins with, whole or not."""
    whole = read_hello(data)
    hello = whole or read_beginning(data)
    if hello is None:
        return NOTHING
    name = _text(hello.names[0], MAX_NAME).lower().removesuffix(".") if hello.names else None
    alpn = tuple(_text(each, _MAX_PROTOCOL) for each in hello.protocols[:_MAX_PROTOCOLS])
    return Offer(server_name=name, alpn=alpn, ja4=None if whole is None else ja4(whole))


def _text(data: bytes, most: int) -> str:
    return data[:most].decode("ascii", "backslashreplace")[:most]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsCounts:
    """How many sessions a sandbox began, since the engine knows it."""

    hellos: int
    joined: int
    """Of these, whose text is read."""
    unread: Mapping[Unread | None, int]
    """Of these, the others by reason. None: no reason is known, such as a second TLS in a process
    whose library is read."""


@dataclass(slots=True)
class _Kind:
    """Equal sessions of one process."""

    told_ns: int
    count: int = 0
    """Of those that were not told of."""
    last: TlsRecord | None = None
    """The newest of them."""

    def hold(self, record: TlsRecord) -> None:
        self.count += record.count
        self.last = record


@dataclass(slots=True)
class _Budget:
    since_ns: int = 0
    used: int = 0

    def take(self, mono_ns: int) -> bool:
        if mono_ns - self.since_ns >= MINUTE_NS:
            self.since_ns, self.used = mono_ns, 0
        if self.used >= MAX_TOLD:
            return False
        self.used += 1
        return True


class TlsSessions:
    """Takes the hellos of one sandbox."""

    __slots__ = (
        *("_alike", "_budget", "_hellos", "_joined", "_kinds", "_offers", "_others", "_unread"),
    )

    def __init__(self) -> None:
        self._alike: dict[Offer, Offer] = {}
        self._offers: OrderedDict[int, Offer] = OrderedDict()
        self._kinds: OrderedDict[_Key, _Kind] = OrderedDict()
        # Of processes for which there is no room: by the way they are read, which are few.
        self._others: dict[Hashable, _Kind] = {}
        self._budget = _Budget()
        self._hellos = self._joined = 0
        self._unread: Counter[Unread | None] = Counter()

    def learn(self, hello: HelloSeen) -> Offer:
        """Remember what a session offered, by the cookie of its socket."""
        offer = read_offer(hello.data)
        if len(self._alike) >= _MAX_ALIKE:
            self._alike.clear()
        offer = self._alike.setdefault(offer, offer)
        cookie = hello.attempt.cookie
        if cookie:
            self._offers.pop(cookie, None)
            self._offers[cookie] = offer
            if len(self._offers) > MAX_OFFERS:
                self._offers.popitem(last=False)
        return offer

    def offer(self, cookie: int) -> Offer:
        """Return what the session on this socket offered, as far as that is known."""
        return self._offers.get(cookie, NOTHING)

    def see(self, record: TlsRecord) -> Iterator[TlsRecord]:
        """Count one session, and yield what is to be told now: itself, some sum, or nothing."""
        self._hellos += record.count
        if record.is_joined:
            self._joined += record.count
        else:
            reading = record.reading
            self._unread[reading.unread if reading is not None else None] += record.count
        key = (_who(record.process), (record.is_joined, _how(record.reading)))
        kind = self._kinds.get(key)
        if kind is None:
            yield from self._begin(key, record)
        else:
            self._kinds.move_to_end(key)
            kind.hold(_slim(record))
            if self._is_due(kind, record.mono_ns, AGAIN_NS):
                kind.told_ns = record.mono_ns
                yield from _take(kind)
        for how, other in list(self._others.items()):
            if self._is_due(other, record.mono_ns, MINUTE_NS):
                del self._others[how]
                yield from _take(other)

    def _is_due(self, kind: _Kind, mono_ns: int, window_ns: int) -> bool:
        return mono_ns - kind.told_ns >= window_ns and self._budget.take(mono_ns)

    def _begin(self, key: _Key, record: TlsRecord) -> Iterator[TlsRecord]:
        if not self._budget.take(record.mono_ns):
            self._other(key[1], record)
            return
        if len(self._kinds) >= MAX_KINDS:
            (_, how), old = self._kinds.popitem(last=False)
            if old.last is not None:
                self._other(how, replace(old.last, count=old.count))
        self._kinds[key] = _Kind(record.mono_ns)
        yield record

    def _other(self, how: Hashable, record: TlsRecord) -> None:
        kind = self._others.get(how)
        if kind is None:
            kind = self._others[how] = _Kind(record.mono_ns)
        reading = record.reading
        if reading is not None:
            reading = replace(reading, path=None)
        kind.hold(replace(record, process=None, reading=reading))

    def end(self) -> Iterator[TlsRecord]:
        """Yield what was counted and not told of yet: the sandbox has ended."""
        for kind in (*self._kinds.values(), *self._others.values()):
            yield from _take(kind)
        self._kinds.clear()
        self._others.clear()

    @property
    def counts(self) -> TlsCounts:
        """How many sessions there were."""
        return TlsCounts(hellos=self._hellos, joined=self._joined, unread=dict(self._unread))


def _take(kind: _Kind) -> Iterator[TlsRecord]:
    if kind.last is not None:
        yield replace(kind.last, count=kind.count)
    kind.count, kind.last = 0, None


def _who(process: Process | None) -> Hashable:
    if process is None:
        return None
    exe = process.exe
    # The hash stands for a long one: a sandbox chooses the length.
    if exe is not None and len(exe) > _LONG_TEXT:
        return process.pid, process.comm, exe[:_LONG_TEXT], hash(exe)
    return process.pid, process.comm, exe


def _how(reading: TlsReading | None) -> Hashable:
    return None if reading is None else (reading.library, reading.unread)


def _slim(record: TlsRecord) -> TlsRecord:
    """Return *record* without long arguments: the first of its kind has told them."""
    process = record.process
    if process is None or not process.argv or sum(map(len, process.argv)) <= _LONG_TEXT:
        return record
    return replace(record, process=replace(process, argv=None))
