# SPDX-License-Identifier: Apache-2.0
"""Give up privileges for good, before a command runs. Counterpart: ``capabilities``."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from agentwall.host import libc
from agentwall.host.capabilities import DROPPED, mask, number
from agentwall.host.identity import Identity

# include/uapi/linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def drop_privileges(identity: Identity, kept: Collection[str]) -> None:
    """Become *identity*, without :data:`~agentwall.host.capabilities.DROPPED` but for *kept*.

    Cannot be undone: no_new_privs is set and the bounding set is cut. Capabilities in *kept* are
    ambient, so that they survive execve() under a user other than root as well.

    Raises:
        OSError: A step was refused; the process must not go on.
    """
    bounding = _read_mask("CapBnd")
    dropped = DROPPED - set(kept)
    for name in sorted(dropped):
        if bounding >> number(name) & 1:
            libc.prctl(_PR_CAPBSET_DROP, number(name))
    held = _read_mask("CapPrm")
    libc.prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    granted = held & ~mask(dropped) if identity.uid == 0 else held & mask(kept)
    ambient = granted & mask(kept)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    libc.capset(effective=granted, permitted=granted, inheritable=ambient)
    libc.prctl(_PR_SET_KEEPCAPS, 0)
    for name in kept:
        if ambient >> number(name) & 1:
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number(name))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def protect_memory() -> None:
    """Keep processes of the same user from tracing the caller; execve() ends it."""
    libc.prctl(_PR_SET_DUMPABLE, 0)


def _read_mask(field: str) -> int:
    for line in Path("/proc/self/status").read_text("utf-8", "replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1], 16)
    raise OSError(f"/proc/self/status: no {field}")
