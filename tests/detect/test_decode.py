# SPDX-License-Identifier: Apache-2.0
"""Every dialect is found, however wrapped or cut; what only looks like one is not; none raise."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.dialogues import (
    BENIGN,
    DIALOGUES,
    MONERO,
    Dialogue,
    answer,
    call,
    conversation,
    http,
    lines,
)

from agentwall.detect.conversation import Conversation, Message
from agentwall.detect.decode import decode
from agentwall.detect.describe import describe
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage

SURENESS = [None, Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH]
UPGRADE = b"GET /proxy HTTP/1.1\r\nHost: ws.example\r\nUpgrade: websocket\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
AUTH = {"type": "auth", "params": {"site_key": "hunter2key", "type": "anonymous"}}


def frame(payload: bytes, mask: bytes = b"", first: int = 0x81) -> bytes:
    """One WebSocket frame."""
    size = len(payload)
    flag = 0x80 if mask else 0
    if size < 126:
        head = bytes([first, flag | size])
    else:
        head = bytes([first, flag | 126]) + size.to_bytes(2)
    masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if mask else payload
    return head + mask + masked


def sure(findings: list[Finding]) -> int:
    """How sure the first finding of mining is, from 0 for none."""
    mining = [f.confidence for f in findings if f.cls is DetectionClass.MINING]
    return SURENESS.index(mining[0] if mining else None)


def only(talk: Conversation) -> Finding:
    """The one finding."""
    found = decode(talk)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialect(name):
    """Each dialect is found for certain, by its name, with evidence and no password."""
    dialogue = DIALOGUES[name]
    finding = only(conversation(dialogue.client, dialogue.server))

    assert (finding.cls, finding.stage) == (DetectionClass.MINING, Stage.DECODER)
    assert (finding.dialect, finding.signature) == (dialogue.dialect, f"mining/{dialogue.dialect}")
    assert finding.confidence is Confidence.HIGH
    evidence = json.dumps(dict(finding.evidence))
    assert "hunter2" not in evidence
    assert MONERO not in evidence


@pytest.mark.parametrize("name", BENIGN)
def test_benign(name):
    """Talk that quotes mining, or has words in common with it, is none, whoever says it."""
    talk = BENIGN[name]

    assert decode(conversation(talk)) == []
    assert decode(conversation(b"", talk)) == []
    assert decode(conversation(talk, talk)) == []


@pytest.mark.parametrize("name", DIALOGUES)
def test_more_never_says_less(name):
    """Along every prefix of both streams the finding appears once and only gets surer."""
    dialogue = DIALOGUES[name]
    before = 0
    for end in range(len(dialogue.client) + 1):
        now = sure(decode(conversation(dialogue.client[:end])))
        assert now >= before
        before = now
    for end in range(len(dialogue.server) + 1):
        now = sure(decode(conversation(dialogue.client, dialogue.server[:end])))
        assert now >= before
        before = now


def test_found_before_the_message_is_whole():
    """A flow that is stopped in the middle of a message is recognised all the same."""
    assert only(conversation(b'{"id":1,"method":"mining.authorize","params":["acc')).dialect


def socks5(dialogue: Dialogue) -> tuple[bytes, bytes]:
    asked = b"\x05\x01\x00\x05\x01\x00\x03\x0cpool.example\x0d\x05"
    return asked + dialogue.client, b"\x05\x00\x05\x00\x00\x01" + bytes(6) + dialogue.server


def socks5_password(dialogue: Dialogue) -> tuple[bytes, bytes]:
    asked = b"\x05\x01\x02\x01\x02me\x07hunter2\x05\x01\x00\x03\x0cpool.example\x0d\x05"
    replied = b"\x05\x02\x01\x00\x05\x00\x00\x01" + bytes(6)
    return asked + dialogue.client, replied + dialogue.server


def socks4a(dialogue: Dialogue) -> tuple[bytes, bytes]:
    asked = b"\x04\x01\x0d\x05\x00\x00\x00\x01me\x00pool.example\x00"
    return asked + dialogue.client, b"\x00\x5a" + bytes(6) + dialogue.server


def connect(dialogue: Dialogue) -> tuple[bytes, bytes]:
    asked = b"CONNECT pool.example:3333 HTTP/1.1\r\nHost: pool.example:3333\r\n\r\n"
    return asked + dialogue.client, b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n" + dialogue.server


@pytest.mark.parametrize("wrap", [socks5, socks5_password, socks4a, connect])
@pytest.mark.parametrize("name", ["stratum v1", "xmrig", "zcash", "getblocktemplate"])
def test_behind_a_proxy(wrap, name):
    """What asks a proxy is taken off both sides; where it leads is the pool."""
    dialogue = DIALOGUES[name]
    finding = only(conversation(*wrap(dialogue)))

    assert finding.dialect == dialogue.dialect
    assert finding.evidence["pool"] == "pool.example:3333"
    assert finding.evidence["via"] == [wrap.__name__.partition("_")[0].replace("4a", "4")] or (
        wrap is connect and finding.evidence["via"] == ["http-connect"]
    )


def test_masked_frames():
    """The client's masked frames are read: coinhive's, and a plain dialect's in fragments."""
    client = UPGRADE + frame(json.dumps(AUTH).encode(), b"\x01\x02\x03\x04")
    finding = only(conversation(client, SWITCHING))
    assert (finding.dialect, finding.confidence) == ("coinhive", Confidence.HIGH)
    assert finding.evidence["via"] == ["websocket"]
    assert finding.evidence["pool"] == "ws.example"

    login = DIALOGUES["xmrig"].client.splitlines()[0]
    fragments = frame(login[:40], b"abcd", 0x01) + frame(b"", b"abcd", 0x89)
    fragments += frame(login[40:], b"efgh", 0x80)
    assert only(conversation(UPGRADE + fragments)).dialect == "cryptonote"


def test_packed_frames():
    """Messages packed with permessage-deflate are unpacked, one context for all of them."""
    packer = zlib.compressobj(wbits=-15)
    packed = b""
    for message in ({"type": "hello"}, AUTH):
        text = packer.compress(json.dumps(message).encode())
        text = (text + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")
        packed += frame(text, b"wxyz", 0xC1)

    assert only(conversation(UPGRADE + packed, SWITCHING)).dialect == "coinhive"


def test_ssh_inside_websocket():
    """SSH is found in binary frames, and behind a proxy."""
    said = b"SSH-2.0-OpenSSH_9.2p1\r\n"
    client = UPGRADE + frame(said, b"abcd", 0x82)
    finding = only(conversation(client, SWITCHING + frame(said, first=0x82)))
    assert (finding.cls, finding.dialect) == (DetectionClass.TUNNEL, "ssh")
    assert finding.evidence["server"] == "OpenSSH_9.2p1"

    behind = only(conversation(*connect(Dialogue("ssh", said, said))))
    assert behind.evidence["target"] == "pool.example:3333"


def test_gzip_lines():
    """After a hello that agreed on gzip, shares are counted in what is packed."""
    hello = DIALOGUES["ethereum stratum 2"]
    share = lines(call("mining.submit", ["1", "2", "3"]))
    server = lines(answer({"proto": "EthereumStratum/2.0.0", "encoding": "gzip"}))
    finding = only(conversation(hello.client + gzip.compress(share) * 2, server))

    assert (finding.dialect, finding.evidence["shares"]) == ("ethereum-stratum-2", 2)


def test_packed_body():
    """A body in chunks and gzip is read."""
    body = gzip.compress(lines(call("eth_submitWork", ["0x1", "0x2", "0x3"])))
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"

    assert only(conversation(head + chunk)).dialect == "eth-getwork"


def test_seen_from_the_middle():
    """Without its beginning a flow is read from the first packet that begins with a message."""
    tail = b'0ff"],"id":3}\n'
    share = lines(call("submit", {"job_id": "1", "nonce": "0100a0ff", "result": "5f" * 32}))
    cuts = (0, len(tail))
    finding = only(conversation(tail + share, client_cuts=cuts, is_midstream=True))
    assert finding.dialect == "cryptonote"
    assert finding.evidence["midstream"] is True

    frames = b"\x00" * 9 + frame(json.dumps(AUTH).encode(), b"abcd")
    talk = conversation(frames, client_cuts=(0, 9), is_midstream=True)
    assert only(talk).dialect == "coinhive"


def test_evidence():
    """The evidence names software, wallet and worker masked, algorithms, and counts shares."""
    dialogue = DIALOGUES["xmrig"]
    evidence = only(conversation(dialogue.client, dialogue.server)).evidence

    assert evidence["methods"] == ["login", "submit", "keepalived", "result.job", "job"]
    assert evidence["agent"] == "XMRig/6.21.0 (Linux x86_64)"
    assert evidence["wallet"] == f"{MONERO[:4]}...{MONERO[-4:]}"
    assert evidence["worker"] == "***"
    assert evidence["algo"] == ["cn/1", "rx/0"]
    assert evidence["shares"] == 1
    assert '"pass": "***"' in str(evidence["excerpt"])
    revealed = decode(conversation(dialogue.client, dialogue.server), reveal=True)[0].evidence
    assert (revealed["wallet"], revealed["worker"]) == (MONERO, "rig7")
    assert "hunter2" not in json.dumps(dict(revealed))


def test_stratum_v2_needs_its_sizes():
    """Without messages the heads of a Noise handshake say nothing."""
    client, server = bytes(range(64)), bytes(range(234))
    sizes = ((64, True), (234, False), (142, True))
    messages = tuple(Message(0, size, side) for size, side in sizes)

    assert decode(conversation(client, server)) == []
    found = only(conversation(client, server, messages=messages))
    assert (found.dialect, found.confidence) == ("stratum-v2", Confidence.LOW)


def test_response_of_results_only():
    """A document's methods do not count; work that a node hands out does."""
    work = answer({"data": "00" * 128, "target": "f" * 64})

    assert decode(conversation(b"", http(lines(work), first="HTTP/1.1 200 OK")))


SESSIONS = [*DIALOGUES.values(), *(Dialogue("", talk, talk) for talk in BENIGN.values())]
ODD = st.sampled_from(
    [
        b"\x00",
        b"\n",
        b"{" * 300,
        b"[" * 300,
        b'{"a":' * 200,
        b"9" * 5000,
        b'"\\ud800"',
        b"\xff\xfe",
        b"1e999",
        b"\x05\x01\x00",
        b"\x04\x01",
        b"CONNECT a HTTP/1.1\r\n\r\n",
        UPGRADE,
        SWITCHING,
        b"\x81\xff" + b"\xff" * 8,
        b"\x1f\x8b\x08",
        b"SSH-2.0-",
        b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n",
        b'{"method":1}',
        b'{"method":"mining.subscribe","params":{"a":[[[[[]]]]]}}\n',
        b'{"method":"login","params":{"login":"x","algo":[]}}\n',
        b'{"method":"getblocktemplate","params":[0]}\n{"method":"getwork","params":{}}\n',
        b'{"type":"auth","params":[]}\n{"identifier":"job"}\n{"result":[[[]]]}\n',
    ]
)
STREAM = st.lists(st.binary(max_size=40) | ODD, max_size=8).map(b"".join)


@given(client=STREAM, server=STREAM, middle=st.booleans(), cut=st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_any_bytes(client, server, middle, cut):
    """Whatever the bytes, decoding ends and gives JSON values."""
    talk = conversation(client, server, is_midstream=middle, client_cuts=(0, cut), server_cuts=())

    for finding in decode(talk):
        json.dumps(dict(finding.evidence))
    json.dumps(dict(describe(talk)))


@given(
    session=st.sampled_from(SESSIONS),
    place=st.floats(0, 1),
    size=st.integers(0, 20),
    odd=st.binary(max_size=6) | ODD,
    middle=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_mutated_sessions(session, place, size, odd, middle):
    """Sessions with a piece replaced decode, and show no password."""
    at = int(place * len(session.client))
    client = session.client[:at] + odd + session.client[at + size :]
    at = int(place * len(session.server))
    server = session.server[:at] + odd + session.server[at + size :]

    for finding in decode(conversation(client, server, is_midstream=middle)):
        assert '"hunter2"' not in json.dumps(dict(finding.evidence))


@pytest.mark.parametrize(
    "piece",
    [
        *(b"{", b"[", b'{"', b'"', b"{\n", b'{"a":\n', b"{}", b"{}\n", b'{"a":[', b"\\", b","),
        *(b"\x81\x00", b"\n", b"}\n{", b'{"a":1e5,', b"9", b"a", b"\x1f\x8b\x08", b"1\r\na\r\n"),
        *(b"GET / HTTP/1.1\r\n\r\n", b"\x00", b'{"a":"\\', b"\x05\x01\x00", b"SSH-2.0-\n"),
        *(b'{"method":"mining.submit","params":["', b'{"method":"submit"}', b"4A1", b"0x11"),
    ],
)
@pytest.mark.parametrize(
    "before", [b"", b'{"a":', UPGRADE, b'{"method":"mining.authorize","params":[']
)
def test_long_monotony(piece, before):
    """A head full of one piece, whatever it is, takes no time that grows faster than its size."""
    head = (before + piece * (65536 // len(piece)))[:65536]
    talk = conversation(head, head)

    for finding in decode(talk):
        assert len(str(finding.evidence.get("excerpt", ""))) <= 200
