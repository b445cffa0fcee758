# SPDX-License-Identifier: Apache-2.0
"""Adds to the wheel what lies outside the Python package: the BPF object, the sources
that bcc compiles on the host, and the policies.

Only to a wheel: an editable installation finds them in the tree, where they may still change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OBJECT = "agentwall/_bpf/agentwall.bpf.o"
PROBES = "agentwall/_bpf/probes"
POLICIES = "policies"


class WheelContents(BuildHookInterface):  # type: ignore[type-arg]  # generic in newer versions only
    """Name the files to add, and refuse to build a wheel that could not enforce anything."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files when a wheel is built, ``version`` being ``standard``."""
        if version != "standard":
            return
        for name in (OBJECT, f"{PROBES}/tls.c"):
            if not Path(self.root, name).is_file():
                raise FileNotFoundError(f"{name}: not built, run make bpf first")
        build_data["force_include"] |= {
            OBJECT: OBJECT,
            PROBES: PROBES,
            POLICIES: "agentwall/_policies",
        }
