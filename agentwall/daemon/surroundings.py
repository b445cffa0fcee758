# SPDX-License-Identifier: Apache-2.0
"""What a sandbox's surroundings are: its network namespace, and how much the wall covers.

Everything is the host's view of its processes; none of it is believed from inside.
"""

from __future__ import annotations

import logging
import os
import time

from agentwall.daemon.clock import boot_ns
from agentwall.daemon.members import UNKNOWN_PLACE, Admission, Member, Place
from agentwall.errors import AgentwallError
from agentwall.host.argv import ArgvReader
from agentwall.host.coverage import Coverage, assess_coverage
from agentwall.host.exposure_of import Guarding, HostView, facts_of, look_at_host
from agentwall.host.netns import (
    answers_through_lo,
    answers_through_lo_of,
    has_own_netns_of,
    netns_cookie,
    netns_cookie_of,
)
from agentwall.policy.model import Policy

logger = logging.getLogger(__name__)

_HOST_VIEW_S = 10.0
"""How long what the host looks like is believed."""
_MAX_PIDS = 256
_MAX_ALIKE = 256


class Surroundings:
    """Looks at sandboxes on behalf of the keeper."""

    def __init__(self) -> None:
        self._view: HostView | None = None
        self._view_until_s = 0.0
        self._argv = ArgvReader()
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._coverages: dict[Coverage, Coverage] = {}

    def place_of(self, member: Member) -> Place:
        """Return where *member* is: in the host's network namespace or one of its own."""
        try:
            if member.is_scope:
                return Place(own_netns=False, netns_cookie=netns_cookie())
            pid = member.pid or next(iter(member.cgroup.pids()), None)
            if pid is None:
                return UNKNOWN_PLACE
            return Place(own_netns=has_own_netns_of(pid), netns_cookie=netns_cookie_of(pid))
        except (AgentwallError, OSError) as err:
            logger.info("sandbox %s: network namespace not known: %s", member.id, err)
            return UNKNOWN_PLACE

    def answers_through_lo(self, member: Member, policy: Policy) -> bool:
        """Say whether a declared DNS server is the host that *member* runs on."""
        if policy.dns is None:
            return False
        servers = [each.network.network_address for each in policy.dns.servers]
        try:
            if member.is_scope or member.pid is None:
                return answers_through_lo(servers)
            return answers_through_lo_of(member.pid, servers)
        except (AgentwallError, OSError):
            return False

    def coverage_of(
        self,
        member: Member,
        policy: Policy,
        missing_hooks: tuple[str, ...],
        outside: tuple[str, ...] = (),
    ) -> Coverage:
        """Return how much of *member* the wall covers, as far as that can be seen now."""
        servers = policy.dns.servers if policy.dns else ()
        addresses = [each.network.network_address for each in servers]
        guarding = Guarding(
            cgroup=member.cgroup.path,
            missing_hooks=missing_hooks,
            loopback_resolvers=tuple(str(each) for each in addresses if each.is_loopback),
            sockets_outside=outside,
        )
        pids = (member.pid,) if member.pid is not None else member.cgroup.pids()[:_MAX_PIDS]
        found = assess_coverage(facts_of(pids, self._host(), guarding, self._argv))
        # Sandboxes of one host are much alike, and a thousand of the same texts are a megabyte.
        if len(self._coverages) >= _MAX_ALIKE:
            self._coverages.clear()
        return self._coverages.setdefault(found, found)

    def _host(self) -> HostView:
        now_s = time.monotonic()
        if self._view is None or now_s >= self._view_until_s:
            self._view, self._view_until_s = look_at_host(), now_s + _HOST_VIEW_S
        return self._view

    def unwatched_ms(self, member: Member) -> int | None:
        """Return for how long *member* has had processes that its policy did not judge."""
        if member.admission in (Admission.HOOK, Admission.SCOPE):
            return 0
        started = [each for each in map(self._started_s, member.cgroup.pids()[:_MAX_PIDS]) if each]
        if not started:
            return 0
        return max(0, round(boot_ns() / 1e6 - min(started) * 1000))

    def _started_s(self, pid: int) -> float | None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name may hold anything; starttime is the 20th field after it (proc(5)).
                return int(file.read().rpartition(b")")[2].split()[19]) / self._ticks
        except (OSError, IndexError, ValueError):
            return None
