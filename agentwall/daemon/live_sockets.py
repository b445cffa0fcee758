# SPDX-License-Identifier: Apache-2.0
"""Sockets that a sandbox has when its wall goes up: which of them are within it, and which stay.

A sandbox that ran before it was admitted has flows that nobody judged. Those of its own cgroup are
behind the wall from the first packet on; what the policy refuses is ended here, so that nobody
hangs. A socket that was made elsewhere and inherited or passed in is of that other cgroup for
good: the wall never judges it. It is reported, and makes the coverage partial; ending it takes its
peer away, but whoever holds it may connect it again.

To be called once the wall stands. Lists what may be long: not for the daemon's main loop.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from agentwall.errors import HostError
from agentwall.flow.verdict import Direction, Mode, Verdict
from agentwall.host.cgroup import Cgroup
from agentwall.host.netns import netns_id
from agentwall.host.sock_diag import LISTEN, SockDiag, SocketSeen
from agentwall.host.sockets_of import Held, Holder, OtherSocket, other_sockets, sockets_held_by
from agentwall.net.endpoint import Endpoint
from agentwall.net.ports import protocol_name
from agentwall.policy.evaluate import Decision, evaluate
from agentwall.policy.model import LoopbackScope, Policy

MAX_LISTED = 64
_MAX_ROADS = 8
_MAX_NAMESPACES = 64
_HARMLESS = frozenset({"unix", "netlink"})
"""Roads only where they lead out: unix sockets are ``exposure_of``'s, and a netlink socket of the
sandbox's own namespace needs a capability to do harm."""


class Fate(enum.Enum):
    """What becomes of a live socket."""

    KEPT = "kept"
    """The policy permits its peer, or it has none; the wall judges what follows."""
    REFUSED = "refused"
    """The policy does not: ended in enforce mode."""
    OUTSIDE = "outside"
    """Made in another cgroup, where the wall does not judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSocket:
    """One socket, judged."""

    seen: SocketSeen
    fate: Fate
    direction: Direction
    decision: Decision | None
    """What the policy says of its peer; None where it has none."""
    holder: Holder | None
    ended: bool = False
    problem: str | None = None
    """Why it could not be ended."""

    @property
    def is_refused(self) -> bool:
        """Whether the policy refuses its peer, wherever it was made."""
        return self.decision is not None and self.decision.verdict is Verdict.DENY


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    policy: Policy
    loopback: LoopbackScope
    mode: Mode


@dataclass(slots=True, kw_only=True)
class LiveSockets:
    """Everything that was found."""

    sockets: list[LiveSocket] = field(default_factory=list)
    others: list[OtherSocket] = field(default_factory=list)
    """Of other families, that lead out."""
    strangers: int = 0
    """Sockets that are in no list: of another family, or of a network namespace that no process
    of the sandbox is in."""
    unread: list[str] = field(default_factory=list)

    def count(self, fate: Fate) -> int:
        """Return how many sockets have this fate."""
        return sum(live.fate is fate for live in self.sockets)

    def roads(self) -> tuple[str, ...]:
        """Return what the wall does not judge, a phrase each, for ``Guarding.sockets_outside``."""
        outside = [live for live in self.sockets if live.fate is Fate.OUTSIDE]
        phrases = [_phrase(live) for live in outside[:_MAX_ROADS]]
        if len(outside) > _MAX_ROADS:
            phrases.append(f"{len(outside) - _MAX_ROADS} more")
        families = sorted({other.family for other in self.others})
        phrases += [f"{family} socket" for family in families]
        if self.strangers:
            phrases.append(f"{self.strangers} of another family or network namespace")
        return (*phrases, *self.unread[:_MAX_ROADS])

    def detail(self) -> dict[str, object]:
        """Return it as JSON values, for ``SandboxStarted.detail["live_sockets"]``."""
        order = (Fate.OUTSIDE, Fate.REFUSED, Fate.KEPT)
        ranked = sorted(self.sockets, key=lambda live: order.index(live.fate))
        return {
            **{fate.value: self.count(fate) for fate in Fate},
            "ended": sum(live.ended for live in self.sockets),
            "others": len(self.others) + self.strangers,
            "sockets": [_encode(live) for live in ranked[:MAX_LISTED]],
            "more": max(0, len(ranked) - MAX_LISTED),
            "unread": self.unread[:_MAX_ROADS],
        }


class HostSockets:
    """The sockets of the daemon's own network namespace, listed once for many sandboxes."""

    def __init__(self) -> None:
        """List them.

        Raises:
            HostError: The kernel has no socket monitor, or it does not answer.
        """
        self.monitor = SockDiag()
        try:
            self.sockets = self.monitor.list_in(None)
        except HostError:
            self.close()
            raise

    def close(self) -> None:
        """Give back what was opened."""
        self.monitor.close()


def judge_live_sockets(
    cgroup: Cgroup,
    policy: Policy,
    mode: Mode,
    loopback: LoopbackScope,
    host: HostSockets | None = None,
) -> LiveSockets:
    """Find the sockets of a sandbox, judge them, and end what its policy refuses.

    Args:
        cgroup: Where its wall stands.
        policy: By which they are judged.
        mode: In force: only in enforce mode is anything ended.
        loopback: See :func:`~agentwall.policy.evaluate.loopback_scope`.
        host: Of this host, listed for several sandboxes; what was made later is not seen.

    Raises:
        HostError: Sockets cannot be listed at all. What cannot be done about single ones is said.
    """
    with contextlib.ExitStack() as stack:
        hosts = host or stack.enter_context(contextlib.closing(HostSockets()))
        pids, cgroups = cgroup.pids(), cgroup.ids()
        held = sockets_held_by(pids)
        result = LiveSockets(unread=held.unread)
        spaces = [(hosts.monitor, hosts.sockets)]
        namespaces = _elsewhere(pids)
        for pid in namespaces[:_MAX_NAMESPACES]:
            try:
                monitor = stack.enter_context(contextlib.closing(SockDiag(pid)))
                spaces.append((monitor, monitor.list_in(None)))
            except HostError as err:
                result.unread.append(f"network namespace of process {pid}: {err}")
        if len(namespaces) > _MAX_NAMESPACES:
            result.unread.append(f"{len(namespaces) - _MAX_NAMESPACES} more network namespaces")
        judge = _Judge(policy=policy, loopback=loopback, mode=mode)
        for monitor, listed in spaces:
            result.sockets += (
                _ended(live, monitor, judge) for live in _judge(listed, cgroups, held, judge)
            )
        found = {live.seen.inode for live in result.sockets}
        _take_others(result, pids, namespaces, held.holders.keys() - found)
    return result


def _elsewhere(pids: Iterable[int]) -> list[int]:
    """Return one process for each network namespace that is not the daemon's."""
    found = {netns_id(pid): pid for pid in pids}
    for known in (None, netns_id("self")):
        found.pop(known, None)
    return list(found.values())


def _judge(
    listed: Iterable[SocketSeen], cgroups: Collection[int], held: Held, judge: _Judge
) -> Iterator[LiveSocket]:
    """Yield the sandbox's sockets of one network namespace."""
    mine = [
        seen
        for seen in listed
        if seen.cgroup in cgroups or (seen.inode and seen.inode in held.holders)
    ]
    listening = {
        (seen.protocol, seen.local.port)
        for seen in mine
        if seen.state == LISTEN and seen.cgroup in cgroups
    }
    accepting = {(seen.protocol, seen.local.port) for seen in mine if seen.state == LISTEN}
    for seen in mine:
        is_inside = seen.cgroup in cgroups
        is_incoming = seen.state != LISTEN and (seen.protocol, seen.local.port) in accepting
        direction = Direction.IN if is_incoming else Direction.OUT
        decision = None
        if seen.remote is not None:
            decision = evaluate(
                judge.policy,
                direction=direction,
                remote=seen.remote,
                local_port=seen.local.port,
                loopback=judge.loopback,
                own_listener=(seen.protocol, seen.remote.port) in listening,
            )
        is_refused = decision is not None and decision.verdict is Verdict.DENY
        fate = Fate.REFUSED if is_refused else Fate.KEPT
        yield LiveSocket(
            seen=seen,
            fate=fate if is_inside else Fate.OUTSIDE,
            direction=direction,
            decision=decision,
            holder=held.holders.get(seen.inode) if seen.inode else None,
        )


def _ended(live: LiveSocket, monitor: SockDiag, judge: _Judge) -> LiveSocket:
    seen = live.seen
    if judge.mode is not Mode.ENFORCE or not live.is_refused or seen.remote is None:
        return live
    if seen.is_raw:
        return replace(live, problem="a raw socket, which the kernel does not end")
    try:
        if monitor.destroy(seen.protocol, seen.local, seen.remote, seen.cookie):
            return replace(live, ended=True)
        # It has ended by itself.
        return replace(live, problem="it was gone")
    except HostError as err:
        return replace(live, problem=str(err))


def _take_others(
    result: LiveSockets, pids: Collection[int], namespaces: list[int], inodes: Collection[int]
) -> None:
    """Say what the sockets are that no monitor lists."""
    left = set(inodes)
    for pid in namespaces[:_MAX_NAMESPACES]:
        known = other_sockets(pid, left)
        left -= known.keys()
        result.others += [other for other in known.values() if other.family not in _HARMLESS]
    # In the host's namespace, which is where they all are of a sandbox without one of its own.
    outer = other_sockets("self", left)
    is_passed_in = netns_id("self") not in map(netns_id, pids)
    harmless = _HARMLESS - {"netlink"} if is_passed_in else _HARMLESS
    result.others += [other for other in outer.values() if other.family not in harmless]
    result.strangers = len(left - outer.keys())


def _phrase(live: LiveSocket) -> str:
    seen = live.seen
    by = f" (process {live.holder.pid})" if live.holder else ""
    if seen.is_raw:
        return f"raw {protocol_name(seen.protocol)} socket{by}"
    end = f"to {_spelled(seen.remote)}" if seen.remote else f"at {_spelled(seen.local)}"
    return f"{protocol_name(seen.protocol)} {end}{by}"


def _spelled(endpoint: Endpoint) -> str:
    address = endpoint.address
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{host}:{endpoint.port}"


def _encode(live: LiveSocket) -> dict[str, object]:
    seen, decision = live.seen, live.decision
    where = decision.where if decision is not None else None
    return {
        "protocol": protocol_name(seen.protocol),
        "raw": seen.is_raw,
        "direction": live.direction.value,
        "local": _encode_endpoint(seen.local),
        "remote": _encode_endpoint(seen.remote) if seen.remote else None,
        "fate": live.fate.value,
        "verdict": decision.verdict.value if decision is not None else None,
        "rule": decision.rule.id if decision is not None and decision.rule else None,
        "file": where.path if where else None,
        "line": where.line if where else None,
        "ended": live.ended,
        "problem": live.problem,
        "pid": live.holder.pid if live.holder else None,
        "cookie": seen.cookie,
    }


def _encode_endpoint(endpoint: Endpoint) -> dict[str, object]:
    return {"address": str(endpoint.address), "port": endpoint.port}
