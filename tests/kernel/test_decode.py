# SPDX-License-Identifier: Apache-2.0
"""Kernel memory becomes attempts and totals, or an error that names the field."""

import ctypes
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.errors import EventDecodeError
from agentwall.flow.record import Attempt, Excerpt, Question, Task
from agentwall.flow.tls import HelloSeen, TlsLibrary
from agentwall.flow.verdict import Direction, Hook, ReasonCode, Verdict
from agentwall.kernel import abi, abi_scan
from agentwall.kernel.abi_plain import PlainLibrary
from agentwall.kernel.decode import (
    EVENT,
    EXCERPT_EVENT,
    FLOW,
    FLOW_KEY,
    HELLO_EVENT,
    NAME_EVENT,
    decode_event,
    decode_excerpt,
    decode_flow,
    decode_name,
)
from agentwall.net.domain import name_key
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


def name_event(text: bytes, type_: int = 1, length: int | None = None, **fields) -> bytes:
    """An event about a name; *text* is reversed, as the kernel holds it."""
    raw = abi.NameEvent.from_buffer_copy(event(**fields).ljust(NAME_EVENT.size, b"\0"))
    raw.type, raw.length = type_, len(text) if length is None else length
    raw.text[: len(text)] = text
    return bytes(raw)


@pytest.mark.parametrize(
    ("format_", "mirror"),
    [
        (EVENT, abi.Event),
        (NAME_EVENT, abi.NameEvent),
        (EXCERPT_EVENT, abi_scan.ExcerptEvent),
        (HELLO_EVENT, abi_scan.HelloEvent),
        (FLOW_KEY, abi.FlowKey),
        (FLOW, abi.Flow),
    ],
)
def test_formats(format_, mirror):
    """Each format puts each field where the ctypes mirror has it."""
    raw = bytes(n % 255 + 1 for n in range(ctypes.sizeof(mirror)))
    named = mirror.from_buffer_copy(raw)
    expected = [getattr(named, name) for name, *_ in mirror._fields_ if name != "_pad"]

    assert format_.size == len(raw)
    assert list(format_.unpack(raw)) == [
        value if isinstance(value, int | bytes) else bytes(value) for value in expected
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


@pytest.mark.parametrize("size", [0, 135, 137, 399, 401, 671, 673])
def test_wrong_event_size(size):
    """Anything but an exact struct size is an error, never a partial record."""
    with pytest.raises(EventDecodeError, match=f"expected 136, 400 or 672 bytes, got {size}"):
        decode_event(bytes(size))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"moc.elpmaxe.buh.", "hub.example.com"),
        (b"moc.", "com"),
        (b".", ""),
        (b"", ""),
        (b"moc.\x00a|\x1b.", "\x1b|a\x00.com"),
        (b"moc.\xa9\xc3.", "\\xc3\\xa9.com"),
    ],
)
def test_name(text, name):
    """Reversed text becomes the name, in ASCII whatever the sandbox put in."""
    assert decode_name(text) == name


@given(st.from_regex(r"([a-z0-9_-]{1,9}\.){0,5}[a-z0-9-]{1,9}", fullmatch=True))
def test_name_is_the_inverse_of_its_key(name):
    """A name comes back from the form that keys hold it in."""
    assert decode_name(name_key(name)) == name


def test_question():
    """An event about a name says which, and of which type."""
    attempt = decode_event(name_event(b"moc.elpmaxe.live.", 28, reason=abi.Reason.QUESTION))

    assert attempt.question == Question(name="evil.example.com", type=28)
    assert (attempt.code, attempt.remote.port) == (ReasonCode.QUESTION, 443)


def test_longest_question():
    """A name that fills its field arrives whole."""
    attempt = decode_event(name_event(b"a" * 253 + b".", reason=abi.Reason.QUESTION))

    assert attempt.question.name == "a" * 253


def test_name_that_was_not_asked():
    """What TLS says is no DNS type."""
    attempt = decode_event(name_event(b"ten.", 0, reason=abi.Reason.SERVER_NAME))

    assert attempt.question == Question(name="net", type=None)


def test_root_and_nothing():
    """A question for the root has an empty name; a packet without a question has none at all."""
    root = decode_event(name_event(b".", 2, reason=abi.Reason.QUESTION))
    none = decode_event(name_event(b"", 0, reason=abi.Reason.NOT_A_QUESTION))

    assert root.question == Question(name="", type=2)
    assert none.question is None


def test_length_beyond_the_field():
    """A length that the field cannot have is an error."""
    with pytest.raises(EventDecodeError, match="length: expected 0-254, got 255"):
        decode_event(name_event(b"", length=255))


def test_learned_name():
    """The hash of an event or a flow becomes the name of that sandbox; 0 is none."""
    names = {(7, 99): "hub.example.com"}

    def name_of(sandbox: int, name_hash: int) -> str | None:
        return names.get((sandbox, name_hash))

    assert decode_event(event(name=99), name_of).name == "hub.example.com"
    assert decode_event(event(name=98), name_of).name is None
    assert decode_event(event(), name_of).name is None
    assert decode_flow(flow_key(name=99), bytes(72), name_of).name == "hub.example.com"
    assert decode_flow(flow_key(sandbox=8, name=99), bytes(72), name_of).name is None


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
    [(55, 72, "flow key: expected 56 bytes, got 55"), (56, 71, "flow: expected 72 bytes, got 71")],
)
def test_wrong_flow_size(key_size, value_size, message):
    """Anything but the exact struct sizes is an error."""
    with pytest.raises(EventDecodeError, match=message):
        decode_flow(bytes(key_size), bytes(value_size))


def hello_event(text: bytes, library: int = 0, length: int | None = None, **fields) -> bytes:
    raw = abi_scan.HelloEvent.from_buffer_copy(event(**fields).ljust(HELLO_EVENT.size, b"\xee"))
    raw.length, raw.library = len(text) if length is None else length, library
    raw.text[: len(text)] = text
    return bytes(raw)


@pytest.mark.parametrize("library", [*PlainLibrary, None])
def test_hello(library):
    """A ClientHello has its octets, no more, and the library that its flow is joined with."""
    raw = hello_event(b"hello", library or 0, hook=abi.Hook.EGRESS, verdict=abi.Verdict.ALLOW)
    hello = decode_excerpt(raw)

    assert isinstance(hello, HelloSeen)
    assert hello.data == b"hello"
    assert hello.library is (TlsLibrary[library.name] if library else None)
    assert (hello.attempt.hook, hello.attempt.remote.port) == (Hook.EGRESS, 443)


def test_longest_hello():
    """A hello that fills its field arrives whole; a length beyond it is an error."""
    text = bytes(range(256)) * 8

    assert decode_excerpt(hello_event(text)).data == text
    with pytest.raises(EventDecodeError, match="hello: length: expected 0-2048, got 2049"):
        decode_excerpt(hello_event(text, length=2049))


def test_hello_of_an_unknown_library():
    """A library that bpf/abi.h does not name is an error, not no library."""
    with pytest.raises(EventDecodeError, match=r"^hello: library: expected .* got 77$"):
        decode_excerpt(hello_event(b"", 77))


@given(st.binary(min_size=HELLO_EVENT.size, max_size=HELLO_EVENT.size))
def test_any_hello(payload):
    """Whatever is in the struct, it is a hello of at most its room, or an error of decoding."""
    try:
        hello = decode_excerpt(payload)
    except EventDecodeError:
        return

    assert isinstance(hello, HelloSeen)
    assert len(hello.data) <= abi_scan.HELLO_BYTES


@pytest.mark.parametrize("size", [0, 136, 1167, 1169, 2191, 2193])
def test_wrong_excerpt_size(size):
    """What has neither struct's size is an error that says which are known."""
    message = f"excerpt: expected 1168 or 2192 bytes, got {size}"
    with pytest.raises(EventDecodeError, match=message):
        decode_excerpt(bytes(size))


def test_excerpt_beside_hellos():
    """An excerpt of the same ring stays an excerpt."""
    raw = abi_scan.ExcerptEvent.from_buffer_copy(event().ljust(EXCERPT_EVENT.size, b"\0"))
    raw.length, raw.position = 3, 9
    raw.text[:3] = b"abc"
    found = decode_excerpt(bytes(raw))

    assert isinstance(found, Excerpt)
    assert (found.data, found.position) == (b"abc", 9)
