# SPDX-License-Identifier: Apache-2.0
"""What a signature set may take up in the kernel."""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.errors import AgentwallError


class BudgetError(AgentwallError, ValueError):
    """A signature set needs more room than the kernel's tables have; the message says of what."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The room that the kernel has for an automaton."""

    states: int = 65535
    """The dead one among them."""
    cells: int = 1 << 23
    """States times classes of bytes, before they are packed: :mod:`agentwall.detect.packing`."""


DEFAULT_BUDGET = Budget()
