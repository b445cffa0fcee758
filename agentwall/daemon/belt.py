# SPDX-License-Identifier: Apache-2.0
"""Whether a run answers the DNS questions that it refuses, and at which interfaces."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from agentwall.errors import KernelError
from agentwall.flow.verdict import Mode
from agentwall.host.exposure import has_own_netns
from agentwall.host.netns import answers_through_lo
from agentwall.kernel.belt import Belt, interfaces
from agentwall.kernel.maps import SandboxSettings
from agentwall.kernel.wall import Wall

logger = logging.getLogger(__name__)

_UNDOES = frozenset({"NET_ADMIN", "SYS_ADMIN"})
"""Who administers the interface can take the mark off, by a packet filter that the question passes
before the belt: it would leave."""


def with_belt(settings: SandboxSettings, kept_capabilities: Collection[str]) -> SandboxSettings:
    """Return *settings* that let refused questions go to a belt, where one may stand.

    It may in a network namespace that is not the host's, under a command that cannot change what
    lies between egress and the interface.
    """
    belt = (
        settings.dns is not None
        and settings.mode is Mode.ENFORCE
        and has_own_netns()
        and _UNDOES.isdisjoint(kept_capabilities)
    )
    return replace(settings, belt=belt)


def put_on(wall: Wall, settings: SandboxSettings) -> Belt:
    """Put the belt at the interfaces of this network namespace, if *settings* have one.

    Where it cannot stand, and at interfaces that come later, refused questions stay refused. It
    stands at lo only where a declared server is reached through it.

    Returns:
        The caller's to close, once the sandbox has ended and before *wall* is.
    """
    belt = wall.belt(settings.netns_cookie)
    if not settings.belt or settings.dns is None:
        return belt
    servers = [server.network.network_address for server in settings.dns.servers]
    has_local = any(each.is_loopback for each in servers) or answers_through_lo(servers)
    for interface in interfaces():
        if interface.is_loopback and not has_local:
            continue
        try:
            belt.attach(interface)
        except KernelError as err:
            logger.info("refused questions are not answered there: %s", err)
    return belt
