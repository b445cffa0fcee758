# SPDX-License-Identifier: Apache-2.0
"""What deploy/agentwall.service says, and processes under its terms without systemd."""

from __future__ import annotations

import ctypes
import os
import re

from rig.process import run_checked
from rig.tree import ROOT

_PR_SET_MDWE = 65


def directives(unit: str) -> dict[str, list[str]]:
    """Return each key of a unit of deploy/ with its values, whatever the section."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "deploy" / unit).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def with_its_capabilities(*command: str) -> list[str]:
    """Return the command line that runs *command* with the service's capabilities only."""
    kept = " ".join(directives("agentwall.service")["CapabilityBoundingSet"]).lower().split()
    held = re.search(r"^Bounding set =(.*)$", run_checked("capsh", "--print"), re.MULTILINE)
    dropped = sorted(set(held[1].split(",")) - set(kept)) if held else []
    if not dropped:
        raise RuntimeError("capsh --print: expected more capabilities than the service has")
    return ["capsh", f"--drop={','.join(dropped)}", "--", "-c", 'exec "$@"', "bash", *command]


def accept_its_terms() -> None:
    """Give the calling process, before it executes, the rest that can be had without systemd."""
    os.umask(int(directives("agentwall.service")["UMask"][0], 8))
    # Linux 6.3 and later: the kernel's own form of MemoryDenyWriteExecute.
    ctypes.CDLL(None).prctl(_PR_SET_MDWE, 1, 0, 0, 0)
