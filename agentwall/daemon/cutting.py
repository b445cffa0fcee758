# SPDX-License-Identifier: Apache-2.0
"""Ends sockets: of flows that are cut, so that applications do not hang, and of sandboxes that end.

A socket outlives its process: what was refused it, TCP goes on trying to send, and it would get
through once the wall is gone.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence

from agentwall.daemon.clock import boot_ns
from agentwall.engine.commands import KillFlow
from agentwall.engine.events import FlowLeftHanging
from agentwall.errors import HostError
from agentwall.host.cgroup import Cgroup
from agentwall.host.netns import netns_id
from agentwall.host.process import is_ending
from agentwall.host.sock_diag import SockDiag

logger = logging.getLogger(__name__)

LINGER_S = 3.0
"""How long the wall stands on after the command, for the sake of what it has sent last."""
_POLL_S = 0.02
_REMEMBERED = 256
"""Of the sockets that were ended, the last: a flow may be cut for two reasons at once."""
ELSEWHERE = "its socket is in another network namespace than agentwall and its process"


class FlowCutter:
    """Carries out :class:`KillFlow`. What cannot be done is said, never raised."""

    def __init__(self) -> None:
        self._monitor: SockDiag | None = None
        self._said: set[str] = set()
        self._ended: deque[int] = deque(maxlen=_REMEMBERED)

    def carry_out(self, command: KillFlow) -> FlowLeftHanging | None:
        """:meth:`cut`, and return what the engine is to be told; None: nothing."""
        why = self.cut(command)
        if why is None:
            return None
        return FlowLeftHanging(
            key=command.sandbox,
            mono_ns=boot_ns(),
            protocol=command.protocol,
            local=command.local,
            remote=command.remote,
            why=why,
        )

    def cut(self, command: KillFlow) -> str | None:
        """End a socket, for good.

        Returns:
            Why it may live on, with an application that hangs; None if it has ended, be it by
            itself. What is wrong with this machine rather than with the flow is said once.
        """
        try:
            if self._monitor is None:
                self._monitor = SockDiag()
            if self._destroy(self._monitor, command):
                return None
            if netns_id(command.pid) in (None, netns_id("self")):
                return None
            try:
                with contextlib.closing(SockDiag(command.pid)) as elsewhere:
                    if self._destroy(elsewhere, command) or command.cookie in self._ended:
                        return None
            except HostError:
                if not is_ending(command.pid):
                    raise
            # Who ends, as many do that are cut, closes its sockets before it leaves its namespaces.
            return None if is_ending(command.pid) else ELSEWHERE
        except HostError as err:
            return self._once(str(err))

    def close(self) -> None:
        """Give back what was opened."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def _once(self, why: str) -> str | None:
        if why in self._said:
            return None
        self._said.add(why)
        return why

    def _destroy(self, monitor: SockDiag, command: KillFlow) -> bool:
        where = (command.protocol, command.local, command.remote, command.cookie)
        has_ended = monitor.destroy(*where)
        if has_ended:
            self._ended.append(command.cookie)
        return has_ended


@contextlib.contextmanager
def ending_sockets(cgroup: Cgroup) -> Iterator[None]:
    """End what processes of *cgroup* leave unsent, once the block has seen them dead.

    What is permitted has :data:`LINGER_S` to get there. In this network namespace, and in those
    that they are in before the block. Where the kernel cannot, that is logged, and what they were
    refused may be sent after all.
    """
    with contextlib.ExitStack() as stack:
        monitors = []
        for pid in (None, *_elsewhere(cgroup)):
            try:
                monitors.append(stack.enter_context(contextlib.closing(SockDiag(pid))))
            except HostError as err:
                logger.warning("sockets of %s: %s", cgroup.path, err)
        yield
        try:
            _end_unsent(monitors, cgroup.ids())
        except HostError as err:
            logger.warning("sockets of %s not ended: %s", cgroup.path, err)


def _end_unsent(monitors: Sequence[SockDiag], ids: Collection[int]) -> None:
    deadline_s = time.monotonic() + LINGER_S
    while any([monitor.unsent_in(ids) for monitor in monitors]):
        if time.monotonic() > deadline_s:
            for monitor in monitors:
                monitor.destroy_unsent_in(ids)
            return
        time.sleep(_POLL_S)


def _elsewhere(cgroup: Cgroup) -> list[int]:
    """Return one process for each other network namespace."""
    found = {netns_id(pid): pid for pid in cgroup.pids()}
    for known in (None, netns_id("self")):
        found.pop(known, None)
    return list(found.values())
