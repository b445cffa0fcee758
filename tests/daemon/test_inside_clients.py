# SPDX-License-Identifier: Apache-2.0
"""Real TLS clients that mine behind ``agentwall run``: found, and cut off before a word is out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from rig.process import run_checked
from rig.tls_clients import TLS_CLIENTS, client
from rig.tls_inside import Errand, Ground, Met, Ran, inside_ground
from rig.tls_pool import MINING, Form
from rig.tls_service import NAME

pytestmark = pytest.mark.kernel

UNREAD = {"c-static": "static", "docker": "go"}
"""Clients whose text cannot be read, and why."""
THOROUGH = ("python", "curl", "c-ex")
"""Clients that mine in every dialect; the others do in the first of their form."""
FLOW_COMES_LATER = ("tstclnt", "c-chained")
"""NSS may be handed the text before it shakes hands, and where OpenSSL puts TLS into TLS itself no
call tells so: which flow it is need not be known yet when the text is found."""
NPM = {"npm-stratum-client": "stratum-v1", "npm-coin-hive": "cryptonote"}
"""They say what they please."""


EXCEPT, WIRE = "except: [mining]", "inspect: wire"


def mining() -> list[Errand]:
    """What every client that there is is to say."""
    made = []
    for each in TLS_CLIENTS:
        if each.available() is None:
            dialects = list(MINING[each.form])[: None if each.name in THOROUGH else 1]
            said = [None] if each.name in NPM else dialects
            slow = each.name in UNREAD
            made += [Errand(client=each, dialect=dialect, is_slow=slow) for dialect in said]
    return made


def chatting() -> list[Errand]:
    """What is no mining, from every client that says what it is told."""
    each = [one for one in TLS_CLIENTS if one.available() is None and one.name not in NPM]
    return [
        Errand(client=one, dialect=None, lines=one.chat(), is_slow=one.name in UNREAD)
        for one in each
    ]


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Iterator[Ground]:
    with inside_ground(tmp_path_factory.mktemp("inside")) as made:
        yield made


@pytest.fixture(scope="module")
def day(ground) -> tuple[Ran, list[Met], list[Met]]:
    """One run in which they all mine, one after the other, and then all chat."""
    miners = mining()
    ran, met = ground.send(*miners, *chatting())
    return ran, met[: len(miners)], met[len(miners) :]


@pytest.fixture(scope="module")
def permitted(ground) -> tuple[Ran, list[Met]]:
    """One run in which mining is permitted in one way or another."""
    names = [*NPM, "python", "curl-gnutls"]
    there = [client(name) for name in names if client(name).available() is None]
    return ground.send(
        *(Errand(client=each, dialect=None, rule=rule) for rule in (EXCEPT, WIRE) for each in there)
    )


def met_by(met: list[Met], name: str) -> list[Met]:
    if reason := client(name).available():
        pytest.skip(f"{name}: {reason}")
    return [one for one in met if one.errand.client.name == name]


covered = pytest.mark.parametrize(
    "name", [each.name for each in TLS_CLIENTS if each.name not in UNREAD]
)


@covered
def test_miner_is_found(day, name):
    """Each is joined with its flow, found with its dialect, and cut off at once."""
    for met in met_by(day[1], name):
        (found,) = [each for each in met.detections if each["class"] == "mining"]
        each = met.errand.client

        assert [(seen["read"], seen["reading"]["library"]) for seen in met.sessions] == [
            (True, each.library)
        ]
        assert found["dialect"] == (met.errand.dialect or NPM[name])
        # Without a flow it is an alert, until egress finds the flow and refuses it.
        is_cut = found["remote"] is not None
        assert is_cut or name in FLOW_COMES_LATER
        assert (found["verdict"], found["response"]) == ("deny" if is_cut else "allow", "block")
        assert found["evidence"]["inside"] == "tls"
        assert found["evidence"].get("sni") in ((NAME,) if each.names else (None,)) or (
            each.name in FLOW_COMES_LATER and found["remote"] is None
        )
        left = 0 if each.nests else len(met.text)
        assert found["bytes_left"] == (left if is_cut else None)


@covered
def test_pool_gets_nothing(day, name):
    """Not an octet of what miners say is out; the head of a POST may be, if it was sent alone."""
    for met in met_by(day[1], name):
        lines = [line for talk in met.talks for line in talk.messages]
        if met.errand.client.nests:
            # Of the TLS inside TLS there was a handshake, and no text.
            assert lines == []
        elif met.errand.client.form is Form.POST:
            head, _, body = met.text.partition(b"\r\n\r\n")
            assert head[:5] in (b"", b"POST ")
            assert body == b""
        else:
            assert met.text == b""


@covered
def test_miner_fails_fast(day, name):
    """A client that is cut off ends with a code that says so; it does not hang."""
    for met in met_by(day[1], name):
        assert met.ended.code not in (None, 0), met.ended.said


@pytest.mark.parametrize("name", UNREAD)
def test_unread_is_said(day, name):
    """Whose text is not read gets through, and the log says that it was not read, and why."""
    for met in met_by(day[1], name):
        readings = [(each["read"], each["reading"]["unread"]) for each in met.sessions]

        assert readings == [(False, UNREAD[name])]
        assert met.detections == []
        assert len(met.text) > 0
        assert met.ended.code == 0


@pytest.mark.parametrize("name", [each.name for each in TLS_CLIENTS if each.name not in NPM])
def test_chat_passes(day, name):
    """What is no mining gets through, though some of it quotes miners."""
    (met,) = met_by(day[2], name)

    assert met.ended.code == 0, met.ended.said
    assert [each for each in met.detections if each["class"] == "mining"] == []
    assert len(met.text) > 0


def test_sums(day):
    """The log's end and the run's last lines count what was read and what was not."""
    ran, mined, chatted = day
    sessions = len(mined) + len(chatted)
    unread = sum(each.errand.client.name in UNREAD for each in (*mined, *chatted))

    assert ran.finish["tls_sessions"] == sessions
    assert ran.finish["tls_read"] == sessions - unread
    assert f"inside TLS: {sessions - unread} of {sessions} sessions read" in ran.said
    assert (ran.finish["lost"], ran.finish["lost_excerpts"]) == (0, 0)


def audited(day: tuple[Ran, list[Met], list[Met]], form: str) -> str:
    words = [sys.executable, "-m", "agentwall", "audit", "--fail-on", "never"]
    return run_checked(*words, "--format", form, day[0].file)


@pytest.mark.parametrize(("form", "head"), [("pretty", "Inside TLS\n"), ("md", "## Inside TLS\n")])
def test_audit_for_people(day, form, head):
    """The report has a section that says who spoke TLS unread, and why."""
    section = audited(day, form).partition(head)[2]
    spoke = len(day[1]) + len(day[2])

    assert f"{spoke} processes spoke TLS" in section
    for met, why in (("c-static", "static binary"), ("docker", "Go binary")):
        if met_by(day[1], met):
            assert why in " ".join(section.split())


def test_audit_for_programs(day):
    """The same as JSON: sums by library, and a row for each program that was not read."""
    inside = json.loads(audited(day, "json"))["inside_tls"]
    met = [*day[1], *day[2]]
    read = [each for each in met if each.errand.client.name not in UNREAD]

    assert (inside["sessions"], inside["read_sessions"]) == (len(met), len(read))
    assert inside["by_library"] == Counter(each.errand.client.library for each in read)
    assert {row["reading"]["unread"] for row in inside["not_read"]} == {
        UNREAD[each.errand.client.name] for each in met if each not in read
    }


def test_except(permitted):
    """Behind a rule that excepts mining clients mine over TLS as they do without us."""
    met = [each for each in permitted[1] if each.errand.rule == EXCEPT]

    assert [each.ended.code for each in met] == [0] * len(met), [each.ended.said for each in met]
    assert all(each.text for each in met)
    assert [each.detections for each in met] == [[]] * len(met)
    assert all(seen["read"] for each in met for seen in each.sessions)


def test_inspect_wire(permitted):
    """Behind a rule with ``inspect: wire`` nothing inside TLS is read, and the log says by whose
    wish."""
    met = [each for each in permitted[1] if each.errand.rule == WIRE]
    sessions = [seen for each in met for seen in each.sessions]

    assert [each.ended.code for each in met] == [0] * len(met), [each.ended.said for each in met]
    assert [each.detections for each in met] == [[]] * len(met)
    assert len(sessions) == len(met)
    assert {(seen["read"], seen["reading"]["unread"]) for seen in sessions} == {(False, "policy")}
