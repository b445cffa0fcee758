# SPDX-License-Identifier: Apache-2.0
"""A daemon's keeper, with a real wall and sandboxes of the test's own, and without its loop."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.daemon.choosing import Applicant, body_for
from agentwall.daemon.config import Config, LogSettings, Scope, ScopeKind
from agentwall.daemon.edition import Edition, Request
from agentwall.daemon.edition_read import read_edition
from agentwall.daemon.keeper import Keeper
from agentwall.daemon.members import Admission, Member
from agentwall.daemon.records import Records
from agentwall.daemon.surroundings import Surroundings
from agentwall.engine.events import Event
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import SandboxKey
from agentwall.host.cgroup import Cgroup
from agentwall.kernel.capacity import Capacity
from agentwall.kernel.wall import Wall
from rig.cgroup import cgroup_root, in_cgroup
from rig.records import START_NS

SMALL = Capacity(
    prefixes=4096,
    intervals=1024,
    names=1024,
    known=1024,
    bound=1024,
    sandboxes=64,
    flows=1024,
    denial_ring_bytes=1 << 16,
    flow_ring_bytes=1 << 16,
)
OTHER = Origin(runtime=Runtime.OTHER)


def spelled(directory: Path) -> str:
    """Return a cgroup as /proc/PID/cgroup spells it."""
    return f"/{directory.relative_to(cgroup_root())}"


def make_edition(
    directory: Path,
    policies: Mapping[str, str],
    *scopes: Scope,
    signatures: tuple[str, ...] = (),
) -> Edition:
    """Return an edition of these policies (texts without version and name) and scopes."""
    place = directory / "policies"
    place.mkdir(exist_ok=True)
    for old in place.glob("*.yaml"):
        old.unlink()
    for name, text in policies.items():
        (place / f"{name}.yaml").write_text(f"version: 1\nname: {name}\n{text}")
    config = directory / "agentwall.yaml"
    config.write_text(
        f"version: 1\npolicies: {place}\nwatch: true\n"
        f"state: /run/agentwall/{directory.name}\nlog: {{path: {directory}/events.jsonl}}\n"
        + "".join(_scope_line(scope) for scope in scopes)
        + (f"signatures: [{', '.join(signatures)}]\n" if signatures else "")
    )
    return read_edition(Request(config=str(config), must_exist=True))


def _scope_line(scope: Scope) -> str:
    default = f", default: {scope.default}" if scope.default else ""
    policies = f", policies: [{', '.join(scope.policies)}]" if scope.policies else ""
    # The key comes once: tests have one scope, or give the whole configuration themselves.
    return f"scopes: [{{cgroup: {scope.cgroup}, kind: {scope.kind.value}{default}{policies}}}]\n"


def owned(cgroup: str, default: str = "default-deny", policies: tuple[str, ...] = ()) -> Scope:
    """Return an owned scope."""
    return Scope(cgroup=cgroup, kind=ScopeKind.OWNED, default=default, policies=policies)


@dataclass(slots=True)
class Bench:
    """A keeper at work."""

    keeper: Keeper
    scope: Scope
    events: list[Event] = field(default_factory=list)

    def told(self, kind: type[Event]) -> list[Event]:
        """Return what was said of this kind."""
        return [each for each in self.events if isinstance(each, kind)]

    def applicant(self, directory: Path, **changes: object) -> Applicant:
        """Return the applicant that a cgroup is."""
        plain = Applicant(
            cgroup=Cgroup(spelled(directory), directory),
            scope=self.scope,
            origin=OTHER,
            admission=Admission.FOUND,
        )
        return dataclasses.replace(plain, **changes)

    def admit(self, directory: Path, **changes: object) -> Member:
        """Admit a cgroup."""
        applicant = self.applicant(directory, **changes)
        body = body_for(self.keeper.rules.edition, applicant)
        assert body is not None
        return self.keeper.admit(applicant, body)


@dataclass(slots=True)
class Walled:
    """A wall for many tests, one after the other, and the records that give out numbers for it."""

    wall: Wall
    records: Records

    @contextlib.contextmanager
    def clean(self) -> Iterator[None]:
        """Forget, at the end of the block, the generations that were written in it."""
        first = self.records.next_generation()
        try:
            yield
        finally:
            for generation in range(first, self.records.next_generation()):
                self.wall.forget(generation)


@contextlib.contextmanager
def walled(directory: Path, capacity: Capacity = SMALL) -> Iterator[Walled]:
    """Load a wall, which takes seconds; its records are below *directory*."""
    records = Records(directory / "state")
    try:
        with Wall.load(capacity=capacity) as wall:
            yield Walled(wall=wall, records=records)
    finally:
        records.close()


@contextlib.contextmanager
def keeping(ground: Walled, edition: Edition) -> Iterator[Bench]:
    """Keep sandboxes under *edition* for the length of the block."""
    events: list[Event] = []
    with ground.clean():
        keeper = Keeper(ground.wall, ground.records, edition, Surroundings(), events.append)
        try:
            yield Bench(keeper=keeper, scope=edition.config.scopes[0], events=events)
        finally:
            for member in keeper.members:
                keeper.release(member, "the test is over")


def bare_config(**changes: object) -> Config:
    """Return a configuration that reads no file."""
    return dataclasses.replace(Config(log=LogSettings()), **changes)


@contextlib.contextmanager
def sleeping(cgroup: Path) -> Iterator[int]:
    """Have a process in *cgroup* for the length of the block; its pid."""
    with subprocess.Popen(
        in_cgroup(cgroup, "/bin/sh", "-c", "echo in; exec sleep 60"), stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"in\n"
            yield process.pid
        finally:
            process.kill()


def member_at(directory: Path, key: int = 7, **changes: object) -> Member:
    """Return the sandbox that a cgroup is, bound to nothing."""
    plain = Member(
        key=SandboxKey(key),
        id=directory.name,
        cgroup=Cgroup(spelled(directory), directory),
        cgroup_id=directory.stat().st_ino,
        scope=spelled(directory.parent),
        admission=Admission.FOUND,
        origin=OTHER,
        admitted_ns=START_NS,
    )
    return dataclasses.replace(plain, **changes)
