# SPDX-License-Identifier: Apache-2.0
"""What the daemon is told by /etc/agentwall/agentwall.yaml, as typed values.

Counterpart: :mod:`agentwall.daemon.config_load` reads the file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.daemon.inside_state import TlsUse
from agentwall.flow.origin import Runtime

CONFIG = Path("/etc/agentwall/agentwall.yaml")
CONTROL_SOCKET = Path("/run/agentwall/control.sock")


class ScopeKind(enum.Enum):
    """Whose a scope is."""

    OWNED = "owned"
    """Nothing but sandboxes lives there: who is born there is born under the default policy."""
    SHARED = "shared"
    """Others live there too: only what matches a sandbox's pattern counts, nothing is refused by
    being there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A cgroup below which sandboxes are looked for. Scopes do not lie within one another."""

    cgroup: str
    """As /proc/PID/cgroup spells it; never the root."""
    kind: ScopeKind
    default: str | None = None
    """Name of the policy for whatever is there without one of its own. Owned scopes have one."""
    policies: tuple[str, ...] = ()
    """Names of the policies that sandboxes here may be given; empty: all."""
    include: tuple[str, ...] = ()
    """Globs over paths below a shared scope that are sandboxes, beside those of known runtimes."""
    exclude: tuple[str, ...] = ()
    """Globs over paths that are none, whatever else says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The event log."""

    path: Path = Path("/var/log/agentwall/events.jsonl")
    max_bytes: int = 256 << 20
    """Of one file; it is rotated before it grows beyond that."""
    keep: int = 8
    """Rotated files that are kept."""
    group: str | None = None
    """Whose members may read it; None: root only."""
    journal: bool = False
    """Also to journald: denials and worse, and what happens to the wall."""
    flows: bool = True
    """Permitted flows too, not only what was refused or found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """The control socket."""

    socket: Path = CONTROL_SOCKET
    readers: str | None = None
    """Group whose members may look: status, lists, denials."""
    operators: str | None = None
    """Group whose members may also label sandboxes and switch their phases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSettings:
    """What follows on a detection beside cutting the flow."""

    command: tuple[str, ...] = ()
    """Run for each flow that was cut, with the event as JSON on its standard input; empty: none."""
    command_timeout_s: float = 10.0
    per_minute: int = 30
    """Commands, freezes and kills on the whole host within a minute; more are recorded only."""
    snapshots: Path = Path("/var/lib/agentwall/snapshots")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Reading inside TLS, before libraries encrypt."""

    inspect: TlsUse = TlsUse.AUTO
    max_libraries: int = 64
    """Files that are probed at the same time; what is beyond that is counted and not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything; the defaults are those of a file with ``version: 1`` alone."""

    policies: Path = Path("/etc/agentwall/policies")
    """Directory of the policies that sandboxes can be given: each ``*.yaml`` directly in it."""
    signatures: tuple[str, ...] = ()
    """Files and directories beside those of this host."""
    scopes: tuple[Scope, ...] = (
        Scope(cgroup="/agentwall.slice", kind=ScopeKind.OWNED, default="default-deny"),
    )
    runtimes: dict[Runtime, str] = field(default_factory=dict)
    """Sockets of runtimes that are asked who a container is, by path; empty: the usual ones."""
    log: LogSettings = LogSettings()
    control: ControlSettings = ControlSettings()
    metrics: str | None = None
    """``address:port`` where Prometheus may scrape; None: nowhere."""
    response: ResponseSettings = ResponseSettings()
    tls: TlsSettings = TlsSettings()
    watch: bool = True
    """Reload when policies, signatures or this file change, and not on SIGHUP alone."""
    state: Path = Path("/run/agentwall/daemon")
    """Directory of the records by which the next daemon finds what this one holds."""
    files: tuple[str, ...] = ()
    """What was read."""

    def scope_of(self, path: str) -> Scope | None:
        """Return the scope below which *path* lies, as /proc/PID/cgroup spells it."""
        for scope in self.scopes:
            if path.startswith(scope.cgroup.rstrip("/") + "/"):
                return scope
        return None
