# SPDX-License-Identifier: Apache-2.0
"""What tests of names work on: a lab with a name server, and sandboxes that may ask it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agentwall.flow.record import SandboxKey
from agentwall.policy.model import Policy
from rig.cgroup import temp_cgroup
from rig.dns import NameServer
from rig.enclosure import Enclosure
from rig.lab import Lab
from rig.puppet import PATIENCE_S, Puppet, puppet


@dataclass(frozen=True, slots=True, kw_only=True)
class NameBench:
    """A lab, a wall that knows its near namespace, and the server that policies declare."""

    lab: Lab
    enclosure: Enclosure
    resolver: NameServer

    @contextmanager
    def sandbox(self, policy: Policy) -> Iterator[tuple[SandboxKey, Puppet]]:
        """Put a new, patient puppet behind *policy* for the length of the block."""
        with (
            temp_cgroup() as cgroup,
            self.enclosure.enclosed(cgroup, policy) as key,
            puppet(self.lab.near, cgroup, timeout_s=PATIENCE_S) as actor,
        ):
            yield key, actor
