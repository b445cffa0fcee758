# SPDX-License-Identifier: Apache-2.0
"""The sandboxes that the daemon looks after: who they are and how each is judged."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from agentwall.flow.origin import Origin
from agentwall.flow.record import Sandbox, SandboxKey
from agentwall.flow.verdict import Mode
from agentwall.host.cgroup import Cgroup, path_of
from agentwall.host.coverage import Coverage
from agentwall.kernel.counters import Counters

_ID_LENGTH = 12
"""Of a container id, as runtimes print them."""
_MAX_ID = 64


class Admission(enum.Enum):
    """How a sandbox came to the daemon."""

    HOOK = "hook"
    """Its runtime asked, before its first instruction."""
    FOUND = "found"
    """Its cgroup appeared."""
    START = "start"
    """It was there when the daemon started."""
    ADOPTED = "adopted"
    """An earlier daemon admitted it."""
    SCOPE = "scope"
    """It is no sandbox but an owned scope: whatever is born there and is not bound yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A mode that somebody switched to, for a while."""

    mode: Mode
    until_ns: int | None
    """CLOCK_BOOTTIME. The kernel itself ends it then. None: until somebody ends it, which only
    enforce mode can be."""
    reason: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What of a sandbox's surroundings its policy's meaning depends on."""

    own_netns: bool
    netns_cookie: int
    """0 if it is not known; then it has no DNS."""


UNKNOWN_PLACE = Place(own_netns=False, netns_cookie=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """By what a sandbox is judged: what the kernel tells while no daemon runs speaks of these
    numbers, and the next one understands it if what they stand for is the same there."""

    version: str
    """Of agentwall: another one may number otherwise."""
    policy: str
    phase: str | None
    digest: str
    """Of that policy."""
    commit: str | None
    generation: int
    table: int
    """Generation of the signature table."""
    signatures: str
    """Digest of what is in it."""


@dataclass(slots=True, kw_only=True)
class Member:
    """One sandbox, or one owned scope."""

    key: SandboxKey
    id: str
    cgroup: Cgroup
    cgroup_id: int
    """Inode of its directory, by which a cgroup of the same name made later is another one."""
    scope: str
    """The cgroup of the scope it lies in; an owned scope's own."""
    admission: Admission
    origin: Origin
    labels: dict[str, str] = field(default_factory=dict)
    policy: str = ""
    """Name of the policy in force."""
    phase: str | None = None
    wanted: str | None = None
    """The policy that whoever admitted it asked for by name."""
    generation: int = 0
    judged: Judged | None = None
    """None until it is bound."""
    override: Override | None = None
    place: Place = UNKNOWN_PLACE
    coverage: Coverage | None = None
    pid: int | None = None
    """One of its processes, at admission."""
    admitted_ns: int = 0
    """UTC."""
    unwatched_ms: int | None = None
    """How long processes ran in it before it was bound; None: not known, 0: none did."""
    counters: Counters | None = None
    detections: int = 0
    bytes_out: int = 0
    """Of flows that were permitted, as far as they were told of by now."""
    bytes_in: int = 0
    last_denial_ns: int | None = None
    """UTC."""
    stopped: str | None = None
    """``freeze`` or ``kill``, once that was done."""
    leaving_ns: int | None = None
    """When its cgroup was seen gone; the wall stands until the kernel has let go of it."""

    @property
    def is_scope(self) -> bool:
        """Whether this is an owned scope rather than a sandbox."""
        return self.admission is Admission.SCOPE


class Members:
    """All of them, by key, id and cgroup."""

    def __init__(self) -> None:
        self._by_key: dict[SandboxKey, Member] = {}
        self._by_id: dict[str, Member] = {}
        self._by_path: dict[str, Member] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._by_key.values()))

    def sandboxes(self) -> Iterator[Member]:
        """Yield those that are sandboxes, in the order of their admission."""
        return (member for member in self if not member.is_scope)

    def add(self, member: Member) -> None:
        """Take a new one."""
        self._by_key[member.key] = member
        self._by_id[member.id] = member
        self._by_path[member.cgroup.path] = member

    def remove(self, member: Member) -> None:
        """Forget one."""
        self._by_key.pop(member.key, None)
        self._by_id.pop(member.id, None)
        self.leave(member)

    def leave(self, member: Member) -> None:
        """Free the path of one whose cgroup has gone: another of the same name may come."""
        if self._by_path.get(member.cgroup.path) is member:
            del self._by_path[member.cgroup.path]

    def get(self, key: SandboxKey) -> Member | None:
        """Return the one with this key."""
        return self._by_key.get(key)

    def named(self, wanted: str) -> Member | None:
        """Return the one with this id."""
        return self._by_id.get(wanted)

    def at(self, path: str) -> Member | None:
        """Return the one whose cgroup *path* is."""
        return self._by_path.get(path)

    def holding(self, path: str) -> Member | None:
        """Return the innermost one in whose cgroup *path* lies."""
        while path and path != "/":
            found = self._by_path.get(path)
            if found is not None:
                return found
            path = path.rpartition("/")[0]
        return None

    def key_of(self, pid: int) -> SandboxKey | None:
        """Return in which one a process is, by its cgroup; None: in none, or it has ended."""
        path = path_of(pid)
        member = self.holding(path) if path is not None else None
        return member.key if member is not None else None

    def cgroup_of(self, key: SandboxKey) -> str | None:
        """Return the cgroup of the one with this key, as /proc/PID/cgroup spells it."""
        member = self._by_key.get(key)
        return member.cgroup.path if member is not None else None

    def free_id(self, origin: Origin, path: str, key: SandboxKey) -> str:
        """Return an id for a new one: short, telling, and not in use."""
        wanted = wanted_id(origin, path)
        return (
            wanted
            if wanted not in self._by_id
            else f"{wanted[: _MAX_ID - 9]}-{key & 0xFFFFFFFF:08x}"
        )


def wanted_id(origin: Origin, path: str) -> str:
    """Return the id that a sandbox has if nobody else has it."""
    if origin.container:
        return origin.container[:_ID_LENGTH]
    if origin.job:
        return f"job-{origin.job}" + (f"-step-{origin.step}" if origin.step else "")
    return path.rpartition("/")[2][:_MAX_ID] or "sandbox"


def sandbox_of(member: Member) -> Sandbox:
    """Return *member* as events name it."""
    return Sandbox(
        id=member.id,
        cgroup=member.cgroup.path,
        labels=dict(member.labels),
        origin=member.origin,
    )
