# SPDX-License-Identifier: Apache-2.0
"""Equal records made few: the first of a kind passes at once, the others as one with their count.

Records in, fewer records out; no clock. Nothing is lost: the counts of what comes out add up to the
counts of what went in. What is kept is bounded, for each sandbox and in all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace

from agentwall.flow.record import DetectionRecord, FlowRecord, Process, Record, Sandbox, StateRecord
from agentwall.flow.verdict import Direction, Hook

NS_PER_S = 1_000_000_000
MAX_KINDS_EACH = 1024
"""Of one sandbox; of more the one heard of longest ago is told and forgotten."""
MAX_KINDS = 16384
"""Of all sandboxes together."""
FIRST_WINDOW_NS = 10 * NS_PER_S
LAST_WINDOW_NS = 60 * NS_PER_S
"""A window is twice as long as the one before, up to this, for as long as it goes on."""
FINISHED = "finished"
"""The ``state`` of a sandbox's last record."""

_LONG_TEXT = 256
"""Characters of a path or of arguments that are kept for a kind."""
_CLASSES = {
    Hook.CONNECT4: "connect",
    Hook.CONNECT6: "connect",
    Hook.SENDMSG4: "sendmsg",
    Hook.SENDMSG6: "sendmsg",
}

_Counted = FlowRecord | DetectionRecord


@dataclass(slots=True)
class _Kind:
    """Records that are equal but for their time, and how long they are gathered."""

    end_ns: int
    window_ns: int = FIRST_WINDOW_NS
    count: int = 0
    """Of those that were held back."""
    last: _Counted | None = None
    """The newest of them."""

    def take(self) -> Iterator[_Counted]:
        """Yield what was held back as one record."""
        if self.last is not None:
            yield replace(self.last, count=self.count)
        self.count, self.last = 0, None

    def hold(self, record: _Counted) -> None:
        """Hold *record* back."""
        if isinstance(record, DetectionRecord) and isinstance(self.last, DetectionRecord):
            # Of several flows the worst is what counts.
            left = [each.bytes_left for each in (record, self.last) if each.bytes_left is not None]
            record = replace(record, bytes_left=max(left, default=None))
        self.count += record.count
        self.last = _slim(record)


@dataclass(slots=True)
class _Of:
    """The kinds of one sandbox, the one heard of longest ago first."""

    sandbox: Sandbox
    labels: Hashable
    """What :attr:`sandbox`'s labels, and its policy, are told apart by."""
    kinds: OrderedDict[Hashable, None] = field(default_factory=OrderedDict)


class Repeats:
    """Deduplicates the records of all sandboxes; :meth:`tick` it every second or so."""

    def __init__(self, *, each: int = MAX_KINDS_EACH, most: int = MAX_KINDS) -> None:
        """Keep at most *each* kinds of one sandbox, and *most* in all."""
        self._each, self._most = each, most
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._sandboxes: dict[str, _Of] = {}
        # By the length of their windows: in each the next one to end stands first, or nearly so.
        self._due: dict[int, OrderedDict[Hashable, None]] = {}

    def __len__(self) -> int:
        """How many kinds are kept."""
        return len(self._kinds)

    def see(self, record: Record) -> Iterator[Record]:
        """Yield what is to be told now that *record* has come: itself, or nothing.

        Before it comes what had to be forgotten to make room, and before the last record of a
        sandbox all that was held back of it.
        """
        if not isinstance(record, FlowRecord | DetectionRecord):
            if isinstance(record, StateRecord) and record.state == FINISHED:
                yield from self.end(record.sandbox.id)
            yield record
        elif isinstance(record, FlowRecord) and record.hook is Hook.SOCK_RELEASE:
            # The kernel has added those up already.
            yield record
        else:
            yield from self._see(record)

    def _see(self, record: _Counted) -> Iterator[Record]:
        of = self._of(record.sandbox)
        key = (record.sandbox.id, of.labels, _kind_of(record))
        kind = self._kinds.get(key)
        if kind is not None:
            kind.hold(record)
            self._kinds.move_to_end(key)
            of.kinds.move_to_end(key)
            return
        if len(of.kinds) >= self._each:
            yield from self._forget(next(iter(of.kinds)))
        if len(self._kinds) >= self._most:
            yield from self._forget(next(iter(self._kinds)))
        self._sandboxes[record.sandbox.id] = of
        self._kinds[key] = _Kind(record.mono_ns + FIRST_WINDOW_NS)
        of.kinds[key] = None
        self._due.setdefault(FIRST_WINDOW_NS, OrderedDict())[key] = None
        yield record

    def _of(self, sandbox: Sandbox) -> _Of:
        of = self._sandboxes.get(sandbox.id)
        if of is None:
            return _Of(sandbox, _labels_of(sandbox))
        if of.sandbox is not sandbox:
            of.sandbox, of.labels = sandbox, _labels_of(sandbox)
        return of

    def tick(self, mono_ns: int) -> Iterator[Record]:
        """Yield one record for each kind that was repeated and whose window is over at *mono_ns*.

        It is the last of them, with the count of all that were held back.
        """
        for window_ns in sorted(self._due, reverse=True):
            due = self._due[window_ns]
            while due:
                key = next(iter(due))
                kind = self._kinds[key]
                if kind.end_ns > mono_ns:
                    break
                if not kind.count:
                    yield from self._forget(key)
                    continue
                yield from kind.take()
                del due[key]
                kind.window_ns = min(2 * window_ns, LAST_WINDOW_NS)
                kind.end_ns = mono_ns + kind.window_ns
                self._due.setdefault(kind.window_ns, OrderedDict())[key] = None

    def end(self, sandbox: str) -> Iterator[Record]:
        """Yield what was held back of the sandbox with this id, and forget it."""
        of = self._sandboxes.get(sandbox)
        for key in list(of.kinds) if of is not None else ():
            yield from self._forget(key)

    def flush(self) -> Iterator[Record]:
        """Yield what was held back of all sandboxes, and forget them."""
        for key in list(self._kinds):
            yield from self._forget(key)

    def _forget(self, key: Hashable) -> Iterator[Record]:
        kind = self._kinds.pop(key)
        del self._due[kind.window_ns][key]
        assert isinstance(key, tuple)
        of = self._sandboxes[key[0]]
        del of.kinds[key]
        if not of.kinds:
            del self._sandboxes[key[0]]
        yield from kind.take()


def _labels_of(sandbox: Sandbox) -> Hashable:
    # The policy with its commit: what one of them refused, the other did not.
    return (tuple(sorted(sandbox.labels.items())), sandbox.policy)


def _kind_of(record: _Counted) -> Hashable:
    """Return what equal records have in common, beside the sandbox and its labels."""
    process, remote, reason = record.process, record.remote, record.reason
    # A visitor comes from another port each time; what it wants is the sandbox's own.
    port = remote.port if remote is not None else 0
    if record.direction is Direction.IN:
        port = record.local.port if record.local is not None else 0
    common = (
        record.verdict,
        record.direction,
        record.protocol,
        remote.address if remote is not None else None,
        port,
        record.name,
        reason.code,
        reason.rule,
        process.comm if process is not None else None,
        _short(process.exe) if process is not None else None,
    )
    if isinstance(record, DetectionRecord):
        finding = record.finding
        inside = "inside" in finding.evidence
        kind = (finding.cls, finding.signature, finding.dialect)
        return (*common, *kind, record.response, inside)
    return (*common, _CLASSES.get(record.hook, record.hook), record.socket_type, record.question)


def _short(text: str | None) -> Hashable:
    # The hash stands for a long one: a sandbox chooses the length.
    return text if text is None or len(text) <= _LONG_TEXT else (text[:_LONG_TEXT], hash(text))


def _slim(record: _Counted) -> _Counted:
    """Return *record* without long arguments: the first of its kind has told them."""
    process: Process | None = record.process
    if process is None or not process.argv or sum(map(len, process.argv)) <= _LONG_TEXT:
        return record
    return replace(record, process=replace(process, argv=None))
