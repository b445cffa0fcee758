# SPDX-License-Identifier: Apache-2.0
"""Captures as ``audit`` is given them: read, searched and judged, with progress shown.

Findings and verdicts go to a :class:`~agentwall.sinks.report.ReportBuilder`. Needs no root.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from agentwall.capture.audit import Audit, may_say_more
from agentwall.capture.reader import CaptureResult, read_captures
from agentwall.capture.source import STDIN
from agentwall.cli.capture_flows import FlowJudge, slim
from agentwall.detect.conversation import Conversation
from agentwall.detect.signature import SignatureSet
from agentwall.flow.finding import Finding
from agentwall.flow.verdict import Direction
from agentwall.host.signature_files import automaton_of, read_signatures
from agentwall.policy.model import Policy
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.findings import Judged
from agentwall.sinks.pretty import make_console
from agentwall.sinks.report import Filters, ReportBuilder
from agentwall.sinks.report_rows import CaptureFlaw, Captures, FlowEnds

MAX_WAITING = 20_000
"""Findings of a capture that wait until all its names are known; further ones are judged at once.
"""
_SHOW_PROGRESS_BYTES = 4 << 20


@dataclass(slots=True)
class _Counts:
    captures: int = 0
    packets: int = 0
    conversations: int = 0
    last_ns: int = 0
    """Of the capture that is being read."""


class CaptureAudit:
    """Audits captures with one signature set and, if there is one, one policy."""

    def __init__(
        self,
        builder: ReportBuilder,
        *,
        policy: Policy | None,
        signatures: Sequence[str] = (),
        filters: Filters | None = None,
    ) -> None:
        """Load the signatures.

        Args:
            builder: Gets what is found, what is denied, and what is wrong with captures.
            policy: Judges every flow, and says what follows on what was found.
            signatures: Files or directories of more signatures.
            filters: As the builder has them.

        Raises:
            PolicyError: Something is wrong with the signatures.
        """
        self._builder = builder
        self._filters = filters or Filters()
        self._policy = policy
        self._signatures: SignatureSet = read_signatures(signatures)
        limits = policy.detect if policy is not None else None
        self._audit = Audit(self._signatures, automaton_of(self._signatures), limits)
        self._counts = _Counts()

    def read(self, paths: Sequence[str]) -> None:
        """Audit captures, one after the other."""
        with _seldom_collected(), _progress(paths) as step:
            for path in paths:
                self._builder.begin("stdin" if path == STDIN else path)
                for result in read_captures([path], progress=step(path), is_alive=may_say_more):
                    self._read_one(result)
        self._builder.count_captures(
            Captures(
                count=self._counts.captures,
                packets=self._counts.packets,
                conversations=self._counts.conversations,
                is_judged=self._policy is not None,
            )
        )

    def _read_one(self, result: CaptureResult) -> None:
        source = "stdin" if result.path == STDIN else result.path
        judge = None
        if self._policy is not None:
            judge = FlowJudge(self._policy, self._signatures)
        waiting: list[tuple[Conversation | None, Finding, int]] = []
        self._counts.last_ns = 0
        for audited in self._audit.audit(self._seen(result, judge)):
            for finding in audited.findings:
                about = None if audited.conversation is None else slim(audited.conversation)
                found = (about, finding, self._counts.last_ns)
                if judge is None or len(waiting) >= MAX_WAITING:
                    self._found(source, found, judge)
                else:
                    waiting.append(found)
        for found in waiting:
            self._found(source, found, judge)
        for record in judge.records() if judge is not None else ():
            self._builder.add_record(record)
        self._counts.captures += 1
        self._counts.packets += result.packets
        for error in result.errors:
            self._builder.add_error(
                CaptureFlaw(source=source, offset=error.offset, problem=error.what)
            )

    def _seen(self, result: CaptureResult, judge: FlowJudge | None) -> Iterator[Conversation]:
        for conversation in result.conversations:
            self._counts.conversations += 1
            self._counts.last_ns = max(self._counts.last_ns, conversation.end_ns)
            if judge is not None and (record := judge.take(conversation)) is not None:
                self._builder.add_record(record)
            yield conversation

    def _found(
        self,
        source: str,
        found: tuple[Conversation | None, Finding, int],
        judge: FlowJudge | None,
    ) -> None:
        about, finding, at_ns = found
        since_ns = self._filters.since_ns
        if since_ns is not None and (at_ns if about is None else about.end_ns) < since_ns:
            return
        judged: Judged | None = None
        if judge is not None:
            judged = judge.judge(about, finding)
            if judged is None or not self._filters.wants(judged.verdict):
                return
        ends = None if about is None else _ends(about)
        self._builder.findings.add_captured(source, finding, ends, judged=judged, at_ns=at_ns)


def _ends(conversation: Conversation) -> FlowEnds:
    return FlowEnds(
        direction=Direction.OUT,
        protocol=conversation.server.protocol,
        local=conversation.client,
        remote=conversation.server,
        name=conversation.name,
        begin_ns=conversation.begin_ns,
        end_ns=conversation.end_ns,
        bytes_out=conversation.client_bytes,
        bytes_in=conversation.server_bytes,
    )


# Millions of objects are made and none is part of a cycle: to look for cycles among them as often
# as usual takes a seventh of the time.
@contextmanager
def _seldom_collected() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


_Step = Callable[[str], Callable[[int, int], None]]


@contextmanager
def _progress(paths: Sequence[str]) -> Iterator[_Step]:
    """Yield what makes of a path the callback that moves one bar over all *paths*."""
    sizes = {path: _size(path) for path in paths}
    total = sum(sizes.values())
    console = make_console(sys.stderr)
    is_shown = console.is_terminal and (total >= _SHOW_PROGRESS_BYTES or STDIN in paths)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not is_shown
    ) as progress:
        task = progress.add_task("", total=total or None)
        done = 0

        def step(path: str) -> Callable[[int, int], None]:
            nonlocal done
            before, size = done, sizes[path]
            done += size
            name = shorten(printable(Path(path).name), 40)
            progress.update(task, description=name, completed=before)

            def moved(packets: int, _: int) -> None:
                # Of compressed captures it is more than the file has.
                at = before + min(packets, size) if size else packets
                progress.update(task, completed=at)

            return moved

        yield step


def _size(path: str) -> int:
    try:
        return 0 if path == STDIN else os.stat(path).st_size
    except OSError:
        return 0  # reading it says why
