# SPDX-License-Identifier: Apache-2.0
"""What ``aw_belt`` makes of a frame, byte for byte, and that it lets nothing marked go on."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.kernel.objects import BpfObject, Program, TestRun

pytestmark = pytest.mark.kernel

MARK = 0x5EED5EED
UNSPEC, OK, SHOT, REDIRECT = 0xFFFFFFFF, 0, 2, 7
MACS = bytes.fromhex("020000000001 020000000002")
NAME = b"\x02xx\x04test\0\0\x01\0\x01"
QUESTION = bytes.fromhex("1234 0100 0001 0000 0000 0000") + NAME
ADDRESSES = {4: ("192.0.2.2", "198.51.100.53"), 6: ("2001:db8::2", "2001:db8:53::53")}


@pytest.fixture(scope="module")
def belt(compile_bpf: Callable[[str], Path]) -> Iterator[Program]:
    """The program, which takes :data:`MARK` for its mark."""
    with BpfObject.open(compile_bpf("belt_rig")) as bpf:
        bpf.set_constant("aw_belt_mark", MARK)
        bpf.load()
        yield bpf.program("aw_belt")


def summed(data: bytes) -> int:
    """The Internet checksum of *data* (RFC 1071)."""
    total = sum(
        struct.unpack(f"!{len(data) // 2 + len(data) % 2}H", data + b"\0" * (len(data) % 2))
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(ends: tuple[bytes, bytes], ports: tuple[int, int], payload: bytes, *, sum_: bool) -> bytes:
    """A UDP datagram between *ends*, with its checksum or with none."""
    length = 8 + len(payload)
    pseudo = b"".join(ends) + struct.pack("!II", length, 17)
    bare = struct.pack("!HHHH", *ports, length, 0) + payload
    check = (summed(pseudo + bare) or 0xFFFF) if sum_ else 0
    return bare[:6] + struct.pack("!H", check) + bare[8:]


def frame(
    version: int,
    payload: bytes = QUESTION,
    *,
    ports: tuple[int, int] = (40000, 53),
    turned: bool = False,
    sum_: bool = True,
) -> bytes:
    """An Ethernet frame with a question or, *turned*, the frame that should come back."""
    source, target = (ipaddress.ip_address(text).packed for text in ADDRESSES[version])
    macs = MACS
    if turned:
        source, target, ports = target, source, ports[::-1]
        macs = MACS[6:] + MACS[:6]
    body = udp((source, target), ports, payload, sum_=sum_)
    if version == 6:
        head = struct.pack("!IHBB", 0x60000000, len(body), 17, 64) + source + target
        return macs + b"\x86\xdd" + head + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0x4000, 64, 17, 0) + source + target
    head = head[:10] + struct.pack("!H", summed(head)) + head[12:]
    return macs + b"\x08\x00" + head + body


def run(belt: Program, data: bytes, mark: int = MARK, gso_bytes: int = 0) -> TestRun:
    """Run the program on a frame that carries *mark*."""
    context = bytearray(192)  # struct __sk_buff: mark is at 8, gso_size at 176
    struct.pack_into("=I", context, 8, mark)
    struct.pack_into("=I", context, 176, gso_bytes)
    return belt.test_run(data, context=bytes(context))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("port", "verdict"), [(53, OK), (34567, REDIRECT)])
def test_answer(belt: Program, version: int, port: int, verdict: int) -> None:
    """Both ways are swapped, and the message says: answer, recursion available, no such name."""
    answer = QUESTION[:2] + b"\x81\x83" + QUESTION[4:]
    done = run(belt, frame(version, ports=(40000, port)))

    assert done.data_out == frame(version, answer, ports=(40000, port), turned=True)
    # prog_test_run's interface is lo; what was translated to another port is routed anew.
    assert done.retval == verdict


@settings(max_examples=60, deadline=None)
@given(
    version=st.sampled_from([4, 6]),
    identity=st.binary(min_size=2, max_size=2),
    flags=st.integers(0, 0x7FFF),
    counts=st.binary(min_size=8, max_size=8),
    rest=st.binary(max_size=300),
    port=st.integers(1, 65535),
    sum_=st.booleans(),
)
def test_any_question(
    belt: Program,
    version: int,
    identity: bytes,
    flags: int,
    counts: bytes,
    rest: bytes,
    port: int,
    sum_: bool,
) -> None:
    """Operation, RD and CD are the question's, all else behind the flags too; sums stay right."""
    sum_ = sum_ or version == 6
    answered = flags & 0x7910 | 0x8083
    before = frame(
        version, identity + struct.pack("!H", flags) + counts + rest, ports=(port, 53), sum_=sum_
    )
    after = frame(
        version,
        identity + struct.pack("!H", answered) + counts + rest,
        ports=(port, 53),
        turned=True,
        sum_=sum_,
    )
    done = run(belt, before)

    assert (done.retval, done.data_out) == (OK, after)


@pytest.mark.parametrize("mark", [0, 1, MARK ^ 1])
def test_not_marked(belt: Program, mark: int) -> None:
    """A question without the mark goes on as it is."""
    done = run(belt, frame(4), mark)

    assert (done.retval, done.data_out) == (UNSPEC, frame(4))


def test_no_mark_set(compile_bpf: Callable[[str], Path]) -> None:
    """A program that was given no mark answers nothing, packets without a mark least of all."""
    with BpfObject.open(compile_bpf("belt_rig")) as bpf:
        bpf.load()
        done = run(bpf.program("aw_belt"), frame(4), mark=0)

    assert (done.retval, done.data_out) == (UNSPEC, frame(4))


def changed(data: bytes, at: int, value: int) -> bytes:
    """*data* with another byte at *at*."""
    return data[:at] + bytes([value]) + data[at + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(MACS + b"\x08\x06" + bytes(46), id="arp"),
        pytest.param(frame(4)[:12] + b"\x81\x00\x00\x05" + frame(4)[12:], id="vlan"),
        pytest.param(changed(frame(4), 14, 0x46), id="options"),
        pytest.param(changed(frame(4), 14, 0x65), id="version"),
        pytest.param(changed(frame(4), 20, 0x20), id="more fragments"),
        pytest.param(changed(frame(4), 21, 1), id="a later fragment"),
        pytest.param(changed(frame(4), 23, 6), id="tcp"),
        pytest.param(changed(frame(6), 20, 6), id="tcp over ipv6"),
        pytest.param(changed(frame(6), 20, 0), id="hop-by-hop header"),
        pytest.param(changed(frame(6), 20, 44), id="fragment header"),
        pytest.param(changed(frame(6), 14, 0x40), id="version of ipv6"),
        pytest.param(frame(4, QUESTION[:2] + b"\x81\x00" + QUESTION[4:]), id="an answer"),
        pytest.param(frame(4, QUESTION[:11]), id="short message"),
        pytest.param(frame(4)[: 14 + 20 + 7], id="short udp"),
    ],
)
def test_what_is_no_question_is_dropped(belt: Program, data: bytes) -> None:
    """It was marked, so it must not leave, even if nothing can answer it."""
    assert run(belt, data).retval == SHOT


def test_several_in_one_are_dropped(belt: Program) -> None:
    """What the kernel would cut into several datagrams (UDP_SEGMENT) is not one question."""
    assert run(belt, frame(4), gso_bytes=28).retval == SHOT


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=54, max_size=200), version=st.sampled_from([b"\x08\0", b"\x86\xdd"]))
def test_nothing_marked_goes_on(belt: Program, data: bytes, version: bytes) -> None:
    """Whatever the frame holds, it is turned round or dropped.

    prog_test_run takes none that is shorter than its IP header.
    """
    assert run(belt, data[:12] + version + data[14:]).retval in (OK, SHOT, REDIRECT)
