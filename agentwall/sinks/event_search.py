# SPDX-License-Identifier: Apache-2.0
"""Which events somebody wants to see. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Record,
    Sandbox,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.verdict import Verdict

KINDS = ("flow", "detection", "tls", "gap", "state")
MIN_PREFIX = 4
"""Characters of a container's id that stand for it."""
_KIND_OF = {
    FlowRecord: "flow",
    DetectionRecord: "detection",
    TlsRecord: "tls",
    GapRecord: "gap",
    StateRecord: "state",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Conditions; all that are given must hold."""

    sandbox: str | None = None
    """An id, a container's id or the beginning of it, a name, or a path of a cgroup."""
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    """One of :data:`KINDS`."""
    verdict: Verdict | None = None
    """DENY takes in WOULD_DENY; records without a verdict have none of them."""
    since_ns: int | None = None
    """UTC."""

    def accepts(self, record: Record) -> bool:
        """Say whether *record* meets the conditions."""
        return (
            (self.since_ns is None or record.time_ns >= self.since_ns)
            and (self.kind is None or _KIND_OF[type(record)] == self.kind)
            and (self.verdict is None or self._has_verdict(record))
            and (self.sandbox is None or is_called(record.sandbox, self.sandbox))
            and all(record.sandbox.labels.get(key) == self.labels[key] for key in self.labels)
        )

    def _has_verdict(self, record: Record) -> bool:
        if not isinstance(record, FlowRecord | DetectionRecord):
            return False
        if self.verdict is Verdict.DENY:
            return record.verdict is not Verdict.ALLOW
        return record.verdict is self.verdict


def is_called(sandbox: Sandbox, handle: str) -> bool:
    """Say whether *handle* means *sandbox*: its id, container, name, or cgroup or one above it."""
    if handle in (sandbox.id, sandbox.cgroup):
        return True
    if handle.startswith("/") and sandbox.cgroup.startswith(handle.rstrip("/") + "/"):
        return True
    origin = sandbox.origin
    if origin is None:
        return False
    is_prefix = len(handle) >= MIN_PREFIX and (origin.container or "").startswith(handle)
    return is_prefix or handle == origin.name
