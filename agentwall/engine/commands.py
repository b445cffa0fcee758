# SPDX-License-Identifier: Apache-2.0
"""Outputs of the engine; the daemon carries them out.

Counterpart: :mod:`agentwall.engine.events`.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.flow.record import Record


@dataclass(frozen=True, slots=True)
class Report:
    """Hand a record to every sink."""

    record: Record


Command = Report
"""What :meth:`Engine.handle` yields: a union that grows with responses to detections."""
