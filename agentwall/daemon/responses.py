# SPDX-License-Identifier: Apache-2.0
"""Carries responses out for the daemon's sandboxes, and tells the engine what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from agentwall.daemon.config import ResponseSettings
from agentwall.daemon.members import Members
from agentwall.daemon.response import Responder
from agentwall.engine.commands import StopSandbox
from agentwall.engine.events import Event
from agentwall.flow.record import DetectionRecord


class Responses:
    """A responder, and who is who."""

    def __init__(self, settings: ResponseSettings, members: Members) -> None:
        self._responder = Responder(settings)
        self._members = members
        self.emit: Callable[[Event], None] = lambda _: None
        """Where what was done is told."""

    def stop(self, command: StopSandbox) -> None:
        """Freeze or kill a sandbox, if it is there still."""
        member = self._members.get(command.sandbox)
        if member is None:
            return
        done = self._responder.stop(command, member.cgroup, time.monotonic())
        if done.problem is None:
            member.stopped = command.response.value
        self.emit(done)

    def notify(self, record: DetectionRecord, event_id: str | None) -> None:
        """Run the operator's command for what was cut."""
        self._responder.notify(record, time.monotonic(), event_id)

    def poll(self) -> None:
        """Look after what runs. About once a second."""
        self._responder.poll(time.monotonic())

    def close(self) -> None:
        """End what runs."""
        self._responder.close()
