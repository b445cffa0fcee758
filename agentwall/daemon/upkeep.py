# SPDX-License-Identifier: Apache-2.0
"""What is done every few seconds: counters read, the wall looked over, what is over taken away.

A thousand sandboxes have nine thousand links, so each look is at a part of them: every sandbox has
its turn within :data:`ROUND_S`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from agentwall.daemon.clock import boot_ns
from agentwall.daemon.keeper import Keeper
from agentwall.daemon.members import Member
from agentwall.daemon.pump import Pump
from agentwall.engine.events import CountersRead, WallDamaged
from agentwall.errors import AgentwallError, HostError, KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel.counters import unpack_counters
from agentwall.kernel.wall import Wall

logger = logging.getLogger(__name__)

ROUND_S = 20.0
"""Within which every sandbox is looked at once."""
_TICK_S = 1.0
_AT_LEAST = 8
"""Looked at each time: where there are few, all of them."""
_COUNTERS_S = 5.0
_TOTALS_S = 30.0
_EXPIRE_S = 5.0
_SETTLE_S = 30.0
_MAX_PROBLEMS = 16
LEAVE_NS = 600 * 10**9
"""How long a cgroup that is gone may have sockets that the kernel still judges."""


def is_let_go(wall: Wall, member: Member) -> bool:
    """Say whether the kernel has let go of a cgroup: no socket of it is left to judge."""
    try:
        return all(link.info().cgroup_id == 0 for link in wall.links(member.key))
    except KernelError:
        return True


class Upkeep:
    """The regular work on a keeper's sandboxes."""

    def __init__(self, keeper: Keeper, pump: Pump, ended: Callable[[Member], None]) -> None:
        self._keeper = keeper
        self._pump = pump
        self._ended = ended
        self._next_s = dict.fromkeys(("counters", "totals", "expire", "settle"), 0.0)
        self._turn: list[Member] = []
        self._due = 0.0
        # As the kernel has them: most sandboxes are at rest, and unpacking takes longest.
        self._counted: dict[bytes, bytes] = {}
        self.last_ns: int | None = None
        """When something was looked at last, UTC."""
        self.problems: dict[str, str] = {}
        """What is not as it should be now, by sandbox."""

    def tick(self) -> None:
        """Do what is due. To be called about every :data:`_TICK_S` seconds."""
        now_s = time.monotonic()
        for name, every_s, action in (
            ("counters", _COUNTERS_S, self.read_counters),
            ("totals", _TOTALS_S, self._pump.drain_totals),
            ("expire", _EXPIRE_S, self._expire),
            ("settle", _SETTLE_S, self._settle),
        ):
            if now_s >= self._next_s[name]:
                self._next_s[name] = now_s + every_s
                action()
        self._end_overrides()
        self._look_over()
        self.last_ns = time.time_ns()

    def read_counters(self) -> None:
        """Tell the engine what the kernel counted, of those for which it counted anything new."""
        now_ns = boot_ns()
        try:
            entries = self._keeper.wall.maps()["aw_counters"].entries()
        except KernelError as err:
            logger.warning("counters: %s", err)
            return
        for key, raw in entries:
            if self._counted.get(key) == raw:
                continue
            member = self._keeper.members.get(SandboxKey(int.from_bytes(key, sys.byteorder)))
            if member is None:
                continue
            self._counted[key] = raw
            counters = unpack_counters(raw)
            if counters != member.counters:
                member.counters = counters
                self._pump.emit(CountersRead(key=member.key, mono_ns=now_ns, **asdict(counters)))

    def _expire(self) -> None:
        # Only about room: what is over counts no longer, and the next time may do better.
        try:
            self._keeper.wall.expire(boot_ns())
        except KernelError as err:
            logger.warning("learned addresses not cleared: %s", err)

    def _settle(self) -> None:
        if not self._keeper.is_settled:
            self._keeper.settle()

    def _end_overrides(self) -> None:
        now_ns = boot_ns()
        for member in self._keeper.members:
            until_ns = member.override.until_ns if member.override is not None else None
            if until_ns is not None and until_ns <= now_ns:
                try:
                    self._keeper.set_override(member, None, "agentwall")
                except (KernelError, HostError) as err:
                    self._note(member, f"ending the override: {err}")

    def _look_over(self) -> None:
        """Look at as many sandboxes as are due."""
        if not self._turn:
            self._turn = list(self._keeper.members)
        everyone = len(self._keeper.members)
        self._due += max(everyone * _TICK_S / ROUND_S, min(everyone, _AT_LEAST))
        while self._due >= 1 and self._turn:
            self._due -= 1
            member = self._turn.pop()
            if self._keeper.members.get(member.key) is member:
                self.look_at(member)
        self._due = min(self._due, 1.0)

    def look_at(self, member: Member) -> None:
        """Check one sandbox now: whether it is still there, and its wall whole."""
        try:
            if self.is_there(member):
                self._mend(member)
        except AgentwallError as err:
            self._note(member, str(err))

    def is_there(self, member: Member) -> bool:
        """Say whether its cgroup is; one whose cgroup has gone leaves, once nothing of it lives.

        Raises:
            KernelError: A hook could not be detached: it stays, and judges.
        """
        if _stands(member):
            return True
        self.see_leaving(member)
        return False

    def see_leaving(self, member: Member) -> None:
        """Let *member* go if its cgroup has gone, as soon as the kernel has nothing left to judge.

        Sockets outlive their cgroup: what was refused them would be sent if the wall went first.
        Another cgroup may have its path meanwhile, and be another sandbox.

        Raises:
            KernelError: A hook could not be detached: it stays, and judges.
        """
        if member.leaving_ns is None:
            if _stands(member):
                return
            member.leaving_ns = boot_ns()
            self._keeper.members.leave(member)
        is_late = boot_ns() - member.leaving_ns > LEAVE_NS
        if not (is_let_go(self._keeper.wall, member) or is_late):
            return
        self._pump.settle()
        self.read_counters()
        self._keeper.release(member, "its cgroup is gone")
        self._counted.pop(member.key.to_bytes(8, sys.byteorder), None)
        self.problems.pop(member.id, None)
        self._ended(member)

    def _mend(self, member: Member) -> None:
        try:
            self._repair(member)
        except AgentwallError:
            # Its cgroup may go while it is looked at: the next look has it leave.
            if _stands(member):
                raise

    def _repair(self, member: Member) -> None:
        wall = self._keeper.wall
        damage = wall.damage(member.key)
        drift = wall.check_maps(member.key)
        if drift:
            logger.warning("sandbox %s: %s: written again", member.id, "; ".join(drift))
            self._pump.emit(
                WallDamaged(
                    key=member.key,
                    mono_ns=boot_ns(),
                    what="; ".join(drift),
                    detail={"repaired": drift},
                )
            )
        if not damage or not _stands(member):
            self.problems.pop(member.id, None)
            return
        what = "; ".join(damage)
        logger.warning("sandbox %s: %s: repairing it", member.id, what)
        try:
            repaired = wall.repair(member.key, member.cgroup.directory)
        except (KernelError, HostError) as err:
            raise HostError(f"{what}; not repaired: {err}") from err
        self.problems.pop(member.id, None)
        detail = {"repaired": repaired}
        self._pump.emit(WallDamaged(key=member.key, mono_ns=boot_ns(), what=what, detail=detail))

    def _note(self, member: Member, what: str) -> None:
        is_news = self.problems.get(member.id) != what
        if len(self.problems) < _MAX_PROBLEMS or member.id in self.problems:
            self.problems[member.id] = what
        if is_news:
            logger.warning("sandbox %s: %s", member.id, what)
            self._pump.emit(WallDamaged(key=member.key, mono_ns=boot_ns(), what=what))


def _stands(member: Member) -> bool:
    try:
        return member.cgroup.directory.stat().st_ino == member.cgroup_id
    except OSError:
        return False
