# SPDX-License-Identifier: Apache-2.0
"""The groups that the configuration names, as numbers."""

from __future__ import annotations

import grp
from dataclasses import dataclass

from agentwall.daemon.config import Config
from agentwall.errors import HostError


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Numbers of groups; None where the configuration names none."""

    log: int | None = None
    readers: int | None = None
    operators: int | None = None


def resolve_groups(config: Config) -> Groups:
    """Look up the groups of *config*, as this host knows them now.

    Asks whatever /etc/nsswitch.conf says, which may be a directory server: not for the main loop.

    Raises:
        HostError: Naming every group that this host does not have.
    """
    wanted = {
        "log.group": config.log.group,
        "control.readers": config.control.readers,
        "control.operators": config.control.operators,
    }
    found: dict[str, int] = {}
    unknown = []
    for key, name in wanted.items():
        if name is None:
            continue
        try:
            found[key] = grp.getgrnam(name).gr_gid
        except KeyError:
            unknown.append(f"{key}: expected a group of this host, got {name!r}")
    if unknown:
        # The file that was read says which of several configurations it was.
        where = f"{config.files[0]}: " if config.files else ""
        raise HostError("\n".join(f"{where}{problem}" for problem in unknown))
    return Groups(
        log=found.get("log.group"),
        readers=found.get("control.readers"),
        operators=found.get("control.operators"),
    )
