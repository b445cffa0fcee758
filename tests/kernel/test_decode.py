# SPDX-License-Identifier: Apache-2.0
"""Kernel memory becomes attempts and totals, or an error that names the field."""

import ctypes
from ipaddress import ip_address

import pytest

from agentwall.errors import EventDecodeError
from agentwall.flow.record import Attempt, Task
from agentwall.flow.verdict import Direction, Hook, ReasonCode, Verdict
from agentwall.kernel import abi
from agentwall.kernel.decode import EVENT, FLOW, FLOW_KEY, decode_event, decode_flow
from agentwall.net.endpoint import Endpoint, key_bytes

FIELDS = {
    "time_ns": 10,
    "sandbox": 7,
    "remote": key_bytes(ip_address("192.0.2.1")),
    "remote_port": 443,
    "protocol": 6,
    "hook": abi.Hook.CONNECT4,
    "verdict": abi.Verdict.DENY,
    "reason": abi.Reason.NO_RULE,
    "rule": abi.NO_RULE,
}


def pack(mirror, **fields) -> bytes:
    raw = mirror()
    for name, value in fields.items():
        if name in {"remote", "local", "claimed"}:
            getattr(raw, name)[:] = value
        else:
            setattr(raw, name, value)
    return bytes(raw)


def event(**fields) -> bytes:
    return pack(abi.Event, **(FIELDS | fields))


def flow_key(**fields) -> bytes:
    shared = ("sandbox", "remote", "protocol", "reason", "rule")
    given = {name: FIELDS[name] for name in shared}
    return pack(abi.FlowKey, **(given | {"port": 443, "verdict": abi.Verdict.ALLOW} | fields))


@pytest.mark.parametrize(
    ("format_", "mirror"), [(EVENT, abi.Event), (FLOW_KEY, abi.FlowKey), (FLOW, abi.Flow)]
)
def test_formats(format_, mirror):
    """Each format puts each field where the ctypes mirror has it."""
    raw = bytes(range(1, ctypes.sizeof(mirror) + 1))
    named = mirror.from_buffer_copy(raw)
    expected = [getattr(named, name) for name, *_ in mirror._fields_ if name != "_pad"]

    assert format_.size == len(raw)
    assert list(format_.unpack(raw)) == [
        bytes(value) if isinstance(value, ctypes.Array) else value for value in expected
    ]


def test_whole_event():
    """Every field of an event arrives in its place."""
    raw = event(
        cookie=99,
        claimed=key_bytes(ip_address("198.51.100.1")),
        claimed_port=80,
        local=key_bytes(ip_address("2001:db8::2")),
        local_port=40_000,
        generation=3,
        rule=5,
        pid=1234,
        uid=1000,
        size=60,
        errno_=1,
        direction=abi.Direction.IN,
        socket_type=1,
        comm=b"curl",
    )

    assert decode_event(raw) == Attempt(
        mono_ns=10,
        sandbox=7,
        task=Task(pid=1234, uid=1000, comm=b"curl"),
        direction=Direction.IN,
        protocol=6,
        local=Endpoint(ip_address("2001:db8::2"), 40_000, 6),
        remote=Endpoint(ip_address("192.0.2.1"), 443, 6),
        claimed=Endpoint(ip_address("198.51.100.1"), 80, 6),
        verdict=Verdict.DENY,
        code=ReasonCode.NO_RULE,
        rule=5,
        generation=3,
        hook=Hook.CONNECT4,
        errno=1,
        size_bytes=60,
        socket_type=1,
        cookie=99,
    )


def test_nothing_known():
    """A refused socket() has no remote, no local end, and no rule."""
    raw = event(remote=bytes(16), remote_port=0, hook=abi.Hook.SOCK_CREATE, protocol=1)
    attempt = decode_event(raw)

    assert (attempt.remote, attempt.local, attempt.claimed) == (None, None, None)
    assert (attempt.rule, attempt.errno, attempt.protocol) == (None, None, 1)


def test_unknown_protocol_is_kept():
    """A flow over a protocol no rule names (here SCTP) is still recorded."""
    assert decode_event(event(protocol=132)).remote.protocol == 132


def test_text_after_the_end_of_comm_is_dropped():
    """What the kernel left behind the terminating NUL of comm does not arrive."""
    raw = bytearray(event())
    raw[-16:] = b"sh\0rubbish" + bytes(6)

    assert decode_event(bytes(raw)).task.comm == b"sh"


@pytest.mark.parametrize("member", abi.Hook)
def test_every_hook(member):
    """Every hook number becomes the hook of that name."""
    assert decode_event(event(hook=member)).hook.name == member.name


@pytest.mark.parametrize("member", abi.Reason)
def test_every_reason(member):
    """Every reason number becomes the reason of that name."""
    assert decode_event(event(reason=member)).code.name == member.name


@pytest.mark.parametrize(
    ("field", "value"),
    [("hook", 0), ("hook", 200), ("reason", 0), ("verdict", 0), ("verdict", 4), ("direction", 2)],
)
def test_unknown_number(field, value):
    """A number that bpf/abi.h does not name is an error that names the field."""
    with pytest.raises(EventDecodeError, match=f"^event: {field}: expected .* got {value}$"):
        decode_event(event(**{field: value}))


@pytest.mark.parametrize("size", [0, 127, 129])
def test_wrong_event_size(size):
    """Anything but the exact struct size is an error, never a partial record."""
    with pytest.raises(EventDecodeError, match=f"expected 128 bytes, got {size}"):
        decode_event(bytes(size))


def test_whole_flow():
    """Key and counters of a permitted flow arrive in their places."""
    key = flow_key(generation=2, pid=11, direction=abi.Direction.OUT, rule=4)
    counters = {"first_ns": 1, "last_ns": 2, "bytes_out": 3, "bytes_in": 4, "duration_ns": 5}
    totals = decode_flow(key, pack(abi.Flow, **counters, sockets=6, uid=8, comm=b"python3"))

    assert totals.task == Task(pid=11, uid=8, comm=b"python3")
    assert totals.remote == Endpoint(ip_address("192.0.2.1"), 443, 6)
    assert (totals.sandbox, totals.generation, totals.rule) == (7, 2, 4)
    assert (totals.first_mono_ns, totals.last_mono_ns) == (1, 2)
    assert (totals.bytes_out, totals.bytes_in, totals.duration_ns) == (3, 4, 5)
    assert (totals.sockets, totals.verdict) == (6, Verdict.ALLOW)


@pytest.mark.parametrize("field", ["verdict", "reason", "direction"])
def test_unknown_number_in_a_flow(field):
    """A flow's key is checked as an event is."""
    with pytest.raises(EventDecodeError, match=f"^flow key: {field}: expected .* got 77$"):
        decode_flow(flow_key(**{field: 77}), bytes(72))


@pytest.mark.parametrize(
    ("key_size", "value_size", "message"),
    [(47, 72, "flow key: expected 48 bytes, got 47"), (48, 71, "flow: expected 72 bytes, got 71")],
)
def test_wrong_flow_size(key_size, value_size, message):
    """Anything but the exact struct sizes is an error."""
    with pytest.raises(EventDecodeError, match=message):
        decode_flow(bytes(key_size), bytes(value_size))
