# SPDX-License-Identifier: Apache-2.0
"""Builds a daemon out of an edition: the wall loaded or taken over, scopes guarded, sinks open.

The order fails closed. The new wall has all its rules, and every sandbox of the earlier daemon is
bound in it, before the first hook is switched over to it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.daemon.choosing import body_for, scope_applicant
from agentwall.daemon.config import Config, ScopeKind
from agentwall.daemon.config_groups import Groups, resolve_groups
from agentwall.daemon.control_socket import (
    ControlSocket,
    make_control_socket,
    take_control_sockets,
)
from agentwall.daemon.discovery import candidate_at
from agentwall.daemon.edition import Edition, Rejected
from agentwall.daemon.inside import Inside
from agentwall.daemon.keeper import Keeper
from agentwall.daemon.members import Member
from agentwall.daemon.outlets import Outlets
from agentwall.daemon.pump import TOLD_AT_ONCE, Pump
from agentwall.daemon.records import Records
from agentwall.daemon.reload import Outcome
from agentwall.daemon.responses import Responses
from agentwall.daemon.sinks import Sinks, open_sinks
from agentwall.daemon.surroundings import Surroundings
from agentwall.daemon.upkeep import Upkeep
from agentwall.engine.events import Event
from agentwall.errors import AgentwallError, HostError
from agentwall.host.cgroup import Cgroup, path_of, place_at
from agentwall.host.cgroup_names import Standing, identify
from agentwall.kernel import pins
from agentwall.kernel.capacity import Capacity, raise_descriptor_limit
from agentwall.kernel.counters import Counters
from agentwall.kernel.wall import Wall
from agentwall.policy.model import OnError

logger = logging.getLogger(__name__)

_AT_START = ("log", "control", "metrics", "response", "state", "tls")
"""What of the configuration is taken up when the daemon starts, and not by a reload."""
EVENT_BUDGET = 16
"""Denials that one sandbox may report within 100 ms: others' still get through where fifty flood,
which is 8 000 a second, less than is read of them."""


@dataclass(slots=True, kw_only=True)
class Parts:
    """What a daemon consists of."""

    keeper: Keeper
    pump: Pump
    outlets: Outlets
    upkeep: Upkeep
    responder: Responses
    sinks: Sinks
    sockets: list[ControlSocket]
    groups: Groups
    inside: Inside
    """Not started."""
    config: Config
    """Which the daemon started with."""
    report: Mapping[str, object]
    """What the log should say of the start."""
    scope_problems: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def is_inside(self, path: str) -> bool:
        """Say whether a cgroup lies in a sandbox, bound or not, or in an owned scope.

        What runtimes keep beside their containers, such as conmon, is theirs: they call the hook.
        """
        holding = self.keeper.members.holding(path)
        if holding is not None and not holding.is_scope:
            return True
        for scope in self.keeper.rules.edition.config.scopes:
            if identify(path, below=scope.cgroup).standing is Standing.EXCLUDED:
                continue
            if candidate_at(scope, path) is not None:
                return True
            if scope.kind is ScopeKind.OWNED and (path + "/").startswith(scope.cgroup + "/"):
                return True
        return False

    def install(self, found: Edition | Rejected) -> Outcome:
        """Put a new edition into force, or keep the old one; say which."""
        now_ns = time.time_ns()
        before = self.keeper.rules.edition
        kept = f"kept the edition before ({before.digest[:12]})"
        if isinstance(found, Rejected):
            return Outcome(time_ns=now_ns, applied=False, what=kept, problems=found.problems)
        try:
            switched, problems = self.keeper.install(found)
        except AgentwallError as err:
            return Outcome(time_ns=now_ns, applied=False, what=kept, problems=(str(err),))
        self.guard_scopes(found.config)
        what = f"{_difference(before, found, self.config)}; {switched} judged otherwise"
        return Outcome(time_ns=now_ns, applied=True, what=what, problems=tuple(problems))

    def guard_scopes(self, config: Config) -> None:
        """Put owned scopes behind the wall that are not; let those go that are none any more."""
        keeper = self.keeper
        owned = {each.cgroup: each for each in config.scopes if each.kind is ScopeKind.OWNED}
        known = dict(self.scope_problems)
        self.scope_problems.clear()
        for member in keeper.members:
            if member.is_scope and member.cgroup.path not in owned:
                self._release(member, "no scope of the configuration any more")
        for path, scope in owned.items():
            if keeper.members.at(path) is not None:
                continue
            try:
                applicant = scope_applicant(scope, _made(path))
                body = body_for(keeper.rules.edition, applicant)
                assert body is not None  # an owned scope has a default
                keeper.admit(applicant, body)
            except AgentwallError as err:
                self.scope_problems[path] = str(err)
                if known.get(path) != str(err):
                    logger.warning("scope %s: %s", path, err)

    def _release(self, member: Member, why: str) -> None:
        try:
            self.keeper.release(member, why)
        except AgentwallError as err:
            logger.warning("sandbox %s: %s", member.id, err)

    def describe_log(self) -> Mapping[str, object]:
        """Return how the event log does."""
        return self.sinks.describe()

    def take_down(self) -> None:
        """Take the wall down, sandboxes first, and all that would lead a next daemon to it."""
        for member in sorted(self.keeper.members, key=lambda each: each.is_scope):
            self._release(member, "the daemon was told to detach")
        take_pins_down(self.keeper.rules.edition.config)


def take_pins_down(config: Config) -> int:
    """Detach and unpin whatever a daemon left; return how many pins there were.

    Raises:
        KernelError: Something could not be removed, and stands.
    """
    gone = pins.clear_pins(pin_directory(config))
    pins.unmount_bpffs()
    return gone


def take_down_offline(config: Config) -> int:
    """Take down what a daemon that runs no more left; return how many pins there were.

    Raises:
        HostError: A daemon is running.
        KernelError: Something could not be removed, and stands.
    """
    records = Records(config.state)
    try:
        gone = take_pins_down(config)
        records.clear()
    finally:
        records.close()
    return gone


def pin_directory(config: Config) -> Path:
    """Return where a daemon with this configuration pins its wall."""
    return pins.BPFFS / config.state.name


def _difference(before: Edition, after: Edition, started: Config) -> str:
    old = {name: bodies[0].policy.digest for name, bodies in before.policies.items()}
    new = {name: bodies[0].policy.digest for name, bodies in after.policies.items()}
    said = [
        f"{what} {', '.join(sorted(names))}"
        for what, names in (
            ("added", new.keys() - old.keys()),
            ("removed", old.keys() - new.keys()),
            ("changed", {name for name in new.keys() & old.keys() if new[name] != old[name]}),
        )
        if names
    ]
    if before.signatures.digest != after.signatures.digest:
        said.append("signatures changed")
    if before.commit != after.commit:
        said.append(f"commit {(after.commit or 'none')[:12]}")
    # Against what is in force, which may be older than the edition before.
    waits = [name for name in _AT_START if getattr(started, name) != getattr(after.config, name)]
    if waits:
        said.append(f"{', '.join(waits)}: from the daemon's next start on")
    return "; ".join(said) or "nothing is different"


def _made(path: str) -> Cgroup:
    """Return the cgroup of an owned scope, made where it is not there yet."""
    place = place_at(path)
    return place.find() or place.make()


def build(edition: Edition, stack: ExitStack) -> Parts:
    """Build everything but the loop; what is built is undone by *stack*, and the wall stands.

    Raises:
        HostError: Another daemon runs; not root; no cgroup v2; a group does not exist.
        KernelError: The wall cannot be loaded, or cannot take over an earlier one.
    """
    if os.geteuid() != 0:
        raise HostError("expected root, to load programs: start it as a service or with sudo")
    config = edition.config
    _refuse_own_scope(config)
    raise_descriptor_limit()
    records = Records(config.state)
    stack.callback(records.close)
    groups = resolve_groups(config)
    sockets = take_control_sockets(os.environ)
    if not sockets:
        sockets = [make_control_socket(config.control.socket, groups)]
    for each in sockets:
        stack.callback(each.close)
    wall = Wall.load(
        pin_dir=pin_directory(config),
        adopt=True,
        capacity=_capacity(edition),
        degrade=_may_degrade(edition),
        event_budget=EVENT_BUDGET,
    )
    stack.callback(wall.close)
    records.beyond(wall.highest_generation())
    sinks = open_sinks(config, groups.log)
    stack.callback(sinks.close)
    return _assemble(edition, wall, records, sinks, (sockets, groups), stack)


def _refuse_own_scope(config: Config) -> None:
    own = path_of("self") or "/"
    for scope in config.scopes:
        if (own + "/").startswith(scope.cgroup + "/") and scope.kind is ScopeKind.OWNED:
            raise HostError(
                f"scope {scope.cgroup}: expected one that this daemon is not in itself, "
                f"and it is in {own}"
            )


def _assemble(
    edition: Edition,
    wall: Wall,
    records: Records,
    sinks: Sinks,
    control: tuple[list[ControlSocket], Groups],
    stack: ExitStack,
) -> Parts:
    early: list[Event] = []
    keeper = Keeper(wall, records, edition, Surroundings(), early.append)
    responder = Responses(edition.config.response, keeper.members)
    stack.callback(responder.close)
    outlets = Outlets(sinks, keeper.members, keeps_flows=edition.config.log.flows)
    sinks.on_detection = responder.notify
    stack.callback(outlets.end_all)
    pump = Pump(wall, keeper.members.cgroup_of, outlets, responder.stop, told_at_once=TOLD_AT_ONCE)
    stack.callback(pump.close)
    inside = _inside(edition.config, keeper, pump)
    # A daemon that ends leaves the probes as it leaves the wall; taking that down takes both.
    stack.callback(inside.close, keep=True)
    responder.emit = keeper.emit = pump.emit
    report = _take_over(keeper, records)
    for event in early:
        pump.emit(event)
    for member in keeper.members:
        if member.counters is not None and _was_busy(member.counters):
            outlets.tallies.begin_late(member.id, member.labels)

    def ended(member: Member) -> None:
        pump.forget(member.key)
        outlets.end(member.id)

    parts = Parts(
        keeper=keeper,
        pump=pump,
        outlets=outlets,
        upkeep=Upkeep(keeper, pump, ended),
        responder=responder,
        inside=inside,
        config=edition.config,
        sinks=sinks,
        sockets=control[0],
        groups=control[1],
        report=report,
    )
    found = report["problems"]
    if isinstance(found, list) and found:
        parts.problems["taking over"] = "; ".join(map(str, found[:8]))
    parts.guard_scopes(edition.config)
    return parts


def _inside(config: Config, keeper: Keeper, pump: Pump) -> Inside:
    place, sandbox_of = pin_directory(config), keeper.members.key_of
    inside = Inside(keeper.wall, place, config.tls, sandbox_of=sandbox_of)
    inside.tell, pump.on_hello = pump.tell_hello, inside.hello
    return inside


def _was_busy(counters: Counters) -> bool:
    return bool(counters.denied or counters.would_denied or counters.matches)


def _take_over(keeper: Keeper, records: Records) -> Mapping[str, object]:
    """Take over what an earlier daemon left; return what the log should say of it."""
    adopted, problems = keeper.adopt_all(records.read())
    problems += [
        f"sandbox {key:016x}: nothing is written down of it: it stays as it was"
        for key in keeper.settle()
    ]
    migrated = [f"{each.map}: {each.why} ({each.lost} lost)" for each in keeper.wall.migrated]
    for problem in problems:
        logger.warning("taking over: %s", problem)
    return {"adopted": adopted, "problems": problems, "migrated": migrated}


def _capacity(edition: Edition) -> Capacity:
    """Return sizes that hold the edition twice, as a reload does, and more than that by far."""
    defaults = Capacity()
    bodies = [body for bodies in edition.policies.values() for body in bodies]
    prefixes = sum(len(b.tables.outbound) + len(b.tables.inbound) for b in bodies)
    intervals = sum(sum(map(len, b.tables.interval_sets)) for b in bodies)
    names = sum(len(b.tables.names) for b in bodies)
    return Capacity(
        prefixes=max(defaults.prefixes, 4 * prefixes),
        intervals=max(defaults.intervals, 4 * intervals),
        names=max(defaults.names, 4 * names),
    )


def _may_degrade(edition: Edition) -> bool:
    # The built-in policy, which is a file elsewhere, has no say.
    place = os.path.abspath(edition.config.policies)
    own = [
        each
        for each in edition.selectable()
        if each.files and os.path.dirname(os.path.abspath(each.files[-1])) == place
    ]
    return bool(own) and all(each.on_error is OnError.DEGRADE for each in own)
