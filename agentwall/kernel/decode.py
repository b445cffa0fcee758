# SPDX-License-Identifier: Apache-2.0
"""Kernel memory -> :class:`Attempt` and :class:`FlowTotals`. Pure.

The layout is ``bpf/abi.h``'s; the formats below spell it for :mod:`struct`, which is several times
faster than ctypes, and a test holds them equal to the mirror in ``abi``. Addresses, endpoints and
tasks repeat from event to event and are made once.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, NoReturn, TypeVar

from agentwall.errors import EventDecodeError
from agentwall.flow.record import (
    Attempt,
    Excerpt,
    FlowTotals,
    Match,
    Question,
    SandboxKey,
    Task,
)
from agentwall.flow.tls import HelloSeen, TlsLibrary
from agentwall.flow.verdict import Direction, Hook, ReasonCode, Verdict
from agentwall.kernel import abi, abi_scan
from agentwall.kernel.abi_plain import PlainLibrary
from agentwall.net.endpoint import Endpoint, IPAddress, canonical, from_key_bytes

EVENT: Final = struct.Struct("=QQQQ16s16s16sIIIIIHHHHBBBBBB6x16s")
"""``struct aw_event``."""
NAME_EVENT: Final = struct.Struct(f"={EVENT.size}sHH{abi.NAME_LEN}s6x")
"""``struct aw_name_event``."""
MATCH_EVENT: Final = struct.Struct(f"={EVENT.size}sIIIHHB7x{abi_scan.MATCH_BYTES}s")
"""``struct aw_match_event``."""
EXCERPT_EVENT: Final = struct.Struct(f"={EVENT.size}sIHBx{abi_scan.EXCERPT_BYTES}s")
"""``struct aw_excerpt_event``."""
HELLO_EVENT: Final = struct.Struct(f"={EVENT.size}sHB5x{abi_scan.HELLO_BYTES}s")
"""``struct aw_hello_event``."""
FLOW_KEY: Final = struct.Struct("=QQ16sIIIHBBBB6x")
"""``struct aw_flow_key``."""
FLOW: Final = struct.Struct("=QQQQQQI4x16s")
"""``struct aw_flow``."""

NameOf = Callable[[SandboxKey, int], str | None]
"""The name that a sandbox learned under a hash, never 0; None if it is not known any more."""

_NOWHERE = bytes(16)
_E = TypeVar("_E", bound=Enum)


# Lists, indexed by the number in the event: None where a number stands for nothing.
def _by_number(mirror: type[Enum], meaning: type[_E]) -> list[_E | None]:
    found: list[_E | None] = [None] * 256
    for member in mirror:
        if member.name in meaning.__members__:
            found[member.value] = meaning[member.name]
    return found


_VERDICTS = _by_number(abi.Verdict, Verdict)
_HOOKS = _by_number(abi.Hook, Hook)
_REASONS = _by_number(abi.Reason, ReasonCode)
_DIRECTIONS = _by_number(abi.Direction, Direction)
_LIBRARIES = _by_number(PlainLibrary, TlsLibrary)


@functools.lru_cache(maxsize=8192)
def _address(raw: bytes) -> IPAddress:
    return canonical(from_key_bytes(raw))


@functools.lru_cache(maxsize=8192)
def _endpoint(raw: bytes, port: int, protocol: int) -> Endpoint:
    return Endpoint(_address(raw), port, protocol)


@functools.lru_cache(maxsize=4096)
def _task(pid: int, uid: int, comm: bytes) -> Task:
    return Task(pid=pid, uid=uid, comm=comm.partition(b"\0")[0])


def no_names(_sandbox: SandboxKey, _hash: int) -> None:
    """Know no names: a :data:`NameOf`."""


def decode_name(text: bytes) -> str:
    """Return the name in *text*, which is as ``struct aw_name_key`` has it, without zeros.

    The result is ASCII, but otherwise whatever the sandbox chose: bytes beyond become escapes.
    """
    return text[-2::-1].decode("ascii", "backslashreplace")


def decode_event(payload: bytes, name_of: NameOf = no_names) -> Attempt:
    """Decode one ``struct aw_event``, ``struct aw_name_event`` or ``struct aw_match_event``.

    Args:
        payload: Exactly 136, 400 or 672 bytes.
        name_of: What the names are that events know by their hash.

    Raises:
        EventDecodeError: *payload* has another size, or a field has a value ``bpf/abi.h`` does
            not name.
    """
    question = match = None
    if len(payload) == MATCH_EVENT.size:
        payload, match = _match(payload)
    elif len(payload) == NAME_EVENT.size:
        payload, kind, length, text = NAME_EVENT.unpack(payload)
        if length > abi.NAME_LEN:
            raise EventDecodeError(f"event: length: expected 0-{abi.NAME_LEN}, got {length}")
        if kind or length:
            question = Question(name=decode_name(text[:length]), type=kind or None)
    elif len(payload) != EVENT.size:
        raise EventDecodeError(
            f"event: expected {EVENT.size}, {NAME_EVENT.size} or {MATCH_EVENT.size} bytes, "
            f"got {len(payload)}"
        )
    return _attempt(payload, name_of, question, match)


def _match(payload: bytes) -> tuple[bytes, Match]:
    event, table, position, left, accept, length, side, text = MATCH_EVENT.unpack(payload)
    if length > abi_scan.MATCH_BYTES:
        raise EventDecodeError(f"event: length: expected 0-{abi_scan.MATCH_BYTES}, got {length}")
    return event, Match(
        table=table,
        accept=accept,
        from_client=side == abi_scan.Side.CLIENT,
        position=position,
        left_bytes=left,
        text=text[:length],
    )


def decode_excerpt(payload: bytes, name_of: NameOf = no_names) -> Excerpt | HelloSeen:
    """Decode one ``struct aw_excerpt_event`` or ``struct aw_hello_event``.

    Args:
        payload: Exactly 1168 or 2192 bytes.
        name_of: As for :func:`decode_event`.

    Raises:
        EventDecodeError: Another size, or a field has a value ``bpf/abi.h`` does not name.
    """
    if len(payload) == HELLO_EVENT.size:
        return _hello(payload, name_of)
    if len(payload) != EXCERPT_EVENT.size:
        raise EventDecodeError(
            f"excerpt: expected {EXCERPT_EVENT.size} or {HELLO_EVENT.size} bytes, "
            f"got {len(payload)}"
        )
    event, position, length, side, text = EXCERPT_EVENT.unpack(payload)
    if length > abi_scan.EXCERPT_BYTES:
        raise EventDecodeError(
            f"excerpt: length: expected 0-{abi_scan.EXCERPT_BYTES}, got {length}"
        )
    return Excerpt(
        attempt=_attempt(event, name_of, None, None),
        from_client=side == abi_scan.Side.CLIENT,
        position=position,
        data=text[:length],
    )


def _hello(payload: bytes, name_of: NameOf) -> HelloSeen:
    event, length, library, text = HELLO_EVENT.unpack(payload)
    if length > abi_scan.HELLO_BYTES:
        raise EventDecodeError(f"hello: length: expected 0-{abi_scan.HELLO_BYTES}, got {length}")
    return HelloSeen(
        attempt=_attempt(event, name_of, None, None),
        library=None if not library else _LIBRARIES[library] or _unknown("hello: library", library),
        data=text[:length],
    )


def _attempt(
    payload: bytes, name_of: NameOf, question: Question | None, match: Match | None
) -> Attempt:
    # fmt: off
    (time_ns, sandbox, cookie, name, remote, claimed, local, generation, rule, pid, uid, size,
     remote_port, claimed_port, local_port, errno, protocol, hook, verdict, reason,
     direction, socket_type, comm) = EVENT.unpack(payload)
    # fmt: on
    no_remote = remote == _NOWHERE and not remote_port
    return Attempt(
        mono_ns=time_ns,
        sandbox=sandbox,
        task=_task(pid, uid, comm),
        direction=_DIRECTIONS[direction] or _unknown("event: direction", direction),
        protocol=protocol,
        local=None if local == _NOWHERE else _endpoint(local, local_port, protocol),
        remote=None if no_remote else _endpoint(remote, remote_port, protocol),
        claimed=_endpoint(claimed, claimed_port, protocol) if claimed_port else None,
        verdict=_VERDICTS[verdict] or _unknown("event: verdict", verdict),
        code=_REASONS[reason] or _unknown("event: reason", reason),
        rule=None if rule == abi.NO_RULE else rule,
        generation=generation,
        hook=_HOOKS[hook] or _unknown("event: hook", hook),
        errno=errno or None,
        size_bytes=size,
        socket_type=socket_type,
        cookie=cookie,
        name=name_of(sandbox, name) if name else None,
        question=question,
        match=match,
    )


def decode_flow(key: bytes, value: bytes, name_of: NameOf = no_names) -> FlowTotals:
    """Decode one entry of ``aw_flow_table``.

    Args:
        key: Exactly 56 bytes, ``struct aw_flow_key``.
        value: Exactly 72 bytes, ``struct aw_flow``.
        name_of: As for :func:`decode_event`.

    Raises:
        EventDecodeError: Another size, or a field has a value ``bpf/abi.h`` does not name.
    """
    if len(key) != FLOW_KEY.size:
        raise EventDecodeError(f"flow key: expected {FLOW_KEY.size} bytes, got {len(key)}")
    if len(value) != FLOW.size:
        raise EventDecodeError(f"flow: expected {FLOW.size} bytes, got {len(value)}")
    sandbox, name, remote, generation, rule, pid, port, *numbers = FLOW_KEY.unpack(key)
    protocol, direction, verdict, reason = numbers
    inward = direction == abi.Direction.IN
    first, last, bytes_out, bytes_in, duration_ns, sockets, uid, comm = FLOW.unpack(value)
    return FlowTotals(
        sandbox=sandbox,
        task=_task(pid, uid, comm),
        direction=_DIRECTIONS[direction] or _unknown("flow key: direction", direction),
        remote=_endpoint(remote, 0 if inward else port, protocol),
        local_port=port if inward else 0,
        verdict=_VERDICTS[verdict] or _unknown("flow key: verdict", verdict),
        code=_REASONS[reason] or _unknown("flow key: reason", reason),
        rule=None if rule == abi.NO_RULE else rule,
        generation=generation,
        first_mono_ns=first,
        last_mono_ns=last,
        bytes_out=bytes_out,
        bytes_in=bytes_in,
        duration_ns=duration_ns,
        sockets=sockets,
        name=name_of(sandbox, name) if name else None,
    )


def _unknown(field: str, value: int) -> NoReturn:
    raise EventDecodeError(f"{field}: expected a value of bpf/abi.h, got {value}")
