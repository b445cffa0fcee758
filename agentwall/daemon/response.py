# SPDX-License-Identifier: Apache-2.0
"""Carries out what a policy says beyond cutting a flow: freeze, kill, and the operator's command.

The flow is cut before anything here happens, and stays cut whatever goes wrong here. What could
take long (looking into a frozen sandbox, the command) happens elsewhere; a call takes
:data:`PATIENCE_S` at most.
"""

from __future__ import annotations

import errno
import logging
import shlex
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from pathlib import Path

from agentwall.daemon.clock import boot_ns
from agentwall.daemon.config import ResponseSettings
from agentwall.daemon.hooks import Hooks
from agentwall.daemon.snapshots import Shot, brief, name_snapshot, write_snapshot
from agentwall.engine.commands import StopSandbox
from agentwall.engine.events import SandboxStopped
from agentwall.flow.record import DetectionRecord
from agentwall.flow.verdict import Verdict
from agentwall.host.argv import ArgvReader
from agentwall.host.cgroup import Cgroup
from agentwall.policy.model import Response

logger = logging.getLogger(__name__)

PATIENCE_S = 0.05
"""For how long a sandbox is waited for that is to stand still, or to be gone."""
_MINUTE_S = 60.0
_GONE = (errno.ENOENT, errno.ENODEV)
"""A cgroup that is no longer there, or that was removed while it was written to."""


class Responder:
    """Carries out responses for all sandboxes of this process.

    Call :meth:`poll` every second or so, and :meth:`close` at the end.
    """

    def __init__(self, settings: ResponseSettings) -> None:
        self._settings = settings
        self._hooks = Hooks(settings.command, settings.command_timeout_s)
        self._done_s: deque[float] = deque()
        self._says_when_over = True
        self._worker: ThreadPoolExecutor | None = None
        self._pending: list[tuple[str, Future[Shot]]] = []
        self._argv = ArgvReader()
        """For the worker alone."""

    def stop(self, command: StopSandbox, cgroup: Cgroup, now_s: float) -> SandboxStopped:
        """Freeze or kill a sandbox.

        Args:
            command: What is to be done, and for what.
            cgroup: The sandbox's.
            now_s: Monotonic.

        Returns:
            What the engine is to be told. Its ``problem`` says why nothing was done, or what is
            left to happen by itself.
        """
        detail: Mapping[str, object] = {}
        if not self._may_act(now_s):
            problem: str | None = (
                f"recorded only: at most {self._settings.per_minute} responses a minute"
            )
        elif command.response is Response.KILL:
            problem = _kill(cgroup)
        else:
            problem, detail = self._freeze(command, cgroup)
        return SandboxStopped(
            key=command.sandbox,
            mono_ns=boot_ns(),
            response=command.response,
            problem=problem,
            detail={"signature": command.detection.finding.signature, **detail},
        )

    def notify(self, record: DetectionRecord, now_s: float, event_id: str | None = None) -> None:
        """Run the operator's command, if there is one, and *record* is of something that was cut.

        Args:
            record: Whatever was detected.
            now_s: Monotonic.
            event_id: Of *record*, as the event log has it.
        """
        is_cut = record.verdict is Verdict.DENY and Response(record.response).cuts
        if not self._settings.command or not is_cut:
            return
        if not self._may_act(now_s):
            if self._says_when_over:
                self._says_when_over = False
                logger.warning(
                    "response command: not run: more than %d responses within a minute",
                    self._settings.per_minute,
                )
            return
        self._says_when_over = True
        if problem := self._hooks.start(record, event_id, now_s):
            logger.warning("response command: not run: %s", problem)

    def poll(self, now_s: float) -> None:
        """Reap commands that have ended, end those that run too long, and say what went wrong."""
        self._hooks.poll(now_s)
        for where, shot in [each for each in self._pending if each[1].done()]:
            self._pending.remove((where, shot))
            if problem := shot.result().problem:
                logger.warning("snapshot %s: %s", where, problem)

    def close(self) -> None:
        """End the commands that still run, and wait for snapshots that are being written."""
        self._hooks.close()
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)
            self._worker = None
        self._argv.close()

    def _may_act(self, now_s: float) -> bool:
        while self._done_s and now_s - self._done_s[0] >= _MINUTE_S:
            self._done_s.popleft()
        if len(self._done_s) >= self._settings.per_minute:
            return False
        self._done_s.append(now_s)
        return True

    def _freeze(
        self, command: StopSandbox, cgroup: Cgroup
    ) -> tuple[str | None, Mapping[str, object]]:
        deadline_s = time.monotonic() + PATIENCE_S
        thaw = f"echo 0 > {shlex.quote(str(cgroup.directory / 'cgroup.freeze'))}"
        try:
            stands = cgroup.freeze(PATIENCE_S)
        except OSError as err:
            gone = err.errno in _GONE
            return "it had ended already" if gone else f"freezing: {err.strerror}", {}
        problem = None if stands else "not all of its processes stand still yet"
        detail: dict[str, object] = {"thaw": thaw}
        where = self._settings.snapshots / name_snapshot(command.detection.sandbox.id)
        shot = self._look_into(cgroup, command.detection, where)
        try:
            found = shot.result(max(0.0, deadline_s - time.monotonic()))
        except StillRunning:
            self._pending.append((str(where), shot))
            return problem, {**detail, "snapshot": str(where)}
        if found.problem:
            logger.warning("snapshot %s: %s", where, found.problem)
        else:
            detail["snapshot"] = str(where)
        return problem, {**detail, **brief(found)}

    def _look_into(self, cgroup: Cgroup, record: DetectionRecord, where: Path) -> Future[Shot]:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        return self._worker.submit(write_snapshot, cgroup, record, where, self._argv)


def _kill(cgroup: Cgroup) -> str | None:
    try:
        return None if cgroup.kill(PATIENCE_S) else "not all of its processes are gone yet"
    except OSError as err:
        return None if err.errno in _GONE else f"killing: {err.strerror}"
