# SPDX-License-Identifier: Apache-2.0
"""Mining in a container behind the daemon: cut, told of, answered, and by the next daemon too."""

from __future__ import annotations

import contextlib
import urllib.request
from pathlib import Path

import pytest
from rig.cli import run_agentwall
from rig.day import POOL, POOL_ADDRESS, POOL_PORT, RULES, Box, Day, day
from rig.ports import reserved_port
from rig.process import wait_until
from rig.talking import SUBSCRIBE

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

POLICIES = (
    ("hubs", RULES),
    ("kills", RULES + "detect: {mining: kill}\n"),
    ("freezes", RULES + "detect: {mining: freeze}\n"),
)
ORPHANED_S = 1.0
"""For how long a socket is watched that nobody is there to end."""
OWN = """version: 1
signatures:
  - id: tunnel/own
    class: tunnel
    dialect: own
    protocol: tcp
    direction: client
    pattern: '^EXFIL [0-9]'
    description: a protocol of this site
    examples: ['EXFIL 1']
    counterexamples: ['HELLO']
"""


@pytest.fixture(scope="module")
def metrics():
    """A port of loopback for the daemon."""
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def here(tmp_path_factory, metrics):
    """A day with a policy for each response."""
    directory = tmp_path_factory.mktemp("day")
    own = directory / "signatures"
    own.mkdir()
    more = (
        f"metrics: {{listen: '127.0.0.1:{metrics}'}}\n"
        f"response: {{snapshots: {directory}/snapshots}}\nsignatures: [{own}]\n"
    )
    with day(directory, *POLICIES, more=more) as made:
        made.daemon.start()
        yield made


def mine(here: Day, box: Box, within_s: float | None = None) -> str:
    """Speak with the pool as a miner does; return ``answered``, or how the socket was ended.

    It is waited for *within_s*, which is for where nobody ends it.
    """
    box.looks_up(POOL)
    miner = box.puppet.open("tcp")
    miner.connect(POOL_ADDRESS, POOL_PORT)
    try:
        miner.send(SUBSCRIBE)
        told = "answered" if miner.recv(within_s) else "closed"
    except OSError as err:
        told = type(err).__name__
    with contextlib.suppress(OSError):
        miner.close()
    return told


def series(port: int) -> dict[str, float]:
    """Scrape the daemon."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    }


def test_mining_is_cut_and_told_of(here, metrics):
    """No byte arrives; event, explanation and metrics say who, what and under which commit."""
    here.pool.clear()
    before = series(metrics)
    with here.box("hubs", labels={"episode": "17"}) as box:
        told = mine(here, box)
        [event] = here.told("detection", box.id)
        with here.daemon.client() as client:
            denials = client.denials(box.id, episode="17")
            commit = client.status()["commit"]
            matches = client.sandbox(box.id)["matches"]
        explained = run_agentwall("explain", event["id"], "--file", str(here.daemon.log))
        after = series(metrics)

    assert told in ("ConnectionAbortedError", "ConnectionResetError")
    assert here.pool.received == b""
    assert (event["class"], event["dialect"]) == ("mining", "stratum-v1")
    assert (event["verdict"], event["response"], event["bytes_left"]) == ("deny", "block", 0)
    assert event["remote"] == {"address": POOL_ADDRESS, "port": POOL_PORT, "name": POOL}
    assert event["reason"]["rule"] == "hubs:allow[1]"
    sandbox = event["sandbox"]
    assert sandbox["labels"] == {"episode": "17"}
    assert sandbox["origin"] == {"runtime": "podman", "container": box.id}
    assert sandbox["policy"] == {"name": "hubs", "phase": None, "commit": commit}
    assert [(each["class"], each["dialect"]) for each in denials.detections] == [
        ("mining", "stratum-v1")
    ]
    assert matches == 1
    assert explained.returncode == 0, explained.stderr
    for word in ("stratum", POOL, "hubs:allow[1]", commit[:12], "episode"):
        assert word in explained.stdout
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    changed = {name for name, by in grown.items() if "detections_total" in name and by == 1}
    assert any('class="mining"' in name for name in changed), sorted(grown)


def test_a_container_is_killed(here):
    """``kill`` ends every process of it, and the log says so."""
    here.pool.clear()
    with contextlib.ExitStack() as stack:
        box = stack.enter_context(here.box("kills"))
        with contextlib.suppress(RuntimeError):
            mine(here, box)
        wait_until(
            lambda: not Path(f"/proc/{box.container.pid}").exists(),
            what="the container's end",
        )
        [event] = here.told("detection", box.id)
        responses = [e["detail"] for e in here.told("state", box.id) if e["state"] == "response"]

    assert here.pool.received == b""
    assert event["response"] == "kill"
    assert [each["response"] for each in responses] == ["kill"]
    # The daemon waits for their end for a moment only.
    assert responses[0]["problem"] in (None, "not all of its processes are gone yet")


def test_a_container_is_frozen(here):
    """``freeze`` stops it where it stands, and writes down what it was doing."""
    here.pool.clear()
    with here.box("freezes") as box:
        box.looks_up(POOL)
        miner = box.puppet.open("tcp")
        miner.connect(POOL_ADDRESS, POOL_PORT)
        box.puppet.begin("send", 0, SUBSCRIBE.decode(), 1)
        freezer = box.container.directory / "cgroup.events"
        try:
            wait_until(lambda: "frozen 1" in freezer.read_text(), what="it frozen")
            with here.daemon.client() as client:
                state = client.sandbox(box.id)["state"]
            [response] = [e for e in here.told("state", box.id) if e["state"] == "response"]
            snapshot = Path(response["detail"]["snapshot"])
            wait_until(lambda: is_whole(snapshot), what="the snapshot")
            said = snapshot.read_text()
        finally:
            (box.container.directory / "cgroup.freeze").write_text("0")

    assert state == "frozen"
    assert response["detail"]["response"] == "freeze"
    # The daemon waits for them for a moment only.
    assert response["detail"]["problem"] in (None, "not all of its processes stand still yet")
    assert "puppet.py" in said
    assert here.pool.received == b""


def is_whole(document: Path) -> bool:
    """Whether a snapshot has been written to its end."""
    return document.exists() and document.read_text().endswith("}\n")


def test_the_next_daemon_understands_what_is_found(here):
    """What matched while none ran, and what matches later: told of, and answered, as ever."""
    here.pool.clear()
    with here.box("hubs") as box, here.box("kills") as doomed:
        here.daemon.kill()
        orphaned = mine(here, box, ORPHANED_S)
        mine(here, doomed, ORPHANED_S)
        lives = Path(f"/proc/{doomed.container.pid}").exists()
        here.daemon.start()
        wait_until(
            lambda: not Path(f"/proc/{doomed.container.pid}").exists(),
            what="the container's end",
        )
        [missed] = here.told("detection", box.id)
        with here.daemon.client() as client:
            # A repetition under the same labels would only be counted.
            client.label(box.id, episode="2")
            commit = client.status()["commit"]
        adopted = mine(here, box)
        [_, found] = here.told("detection", box.id)

    # Nobody was there to end the socket: nothing leaves, and it hangs.
    assert orphaned == "TimeoutError"
    assert lives
    assert adopted in ("ConnectionAbortedError", "ConnectionResetError")
    assert here.pool.received == b""
    for event in (missed, found):
        assert (event["dialect"], event["verdict"]) == ("stratum-v1", "deny")
        assert (event["bytes_left"], event["reason"]["rule"]) == (0, "hubs:allow[1]")
        assert event["sandbox"]["policy"] == {"name": "hubs", "phase": None, "commit": commit}
    assert (missed["sandbox"]["labels"], found["sandbox"]["labels"]) == ({}, {"episode": "2"})


def test_a_daemon_with_other_signatures_says_what_it_can(here):
    """What the old table's numbers meant it cannot know: it tells of a refusal, and its reason."""
    here.pool.clear()
    own = here.daemon.directory / "signatures" / "own.yaml"
    with here.box("hubs") as box:
        here.daemon.kill()
        mine(here, box, ORPHANED_S)
        try:
            own.write_text(OWN)
            here.daemon.start()
            missed = [e for e in here.told("flow", box.id) if e["verdict"] == "deny"]
            box.looks_up(POOL)
            stranger = box.puppet.open("tcp")
            stranger.connect(POOL_ADDRESS, POOL_PORT)
            with contextlib.suppress(OSError):
                stranger.send(b"EXFIL 1.0 secrets\n")
                stranger.recv()
            told = mine(here, box)
            found = [each["dialect"] for each in here.told("detection", box.id)]
        finally:
            own.unlink(missing_ok=True)
            here.daemon.reload()

    assert [(e["reason"]["code"], e["reason"]["rule"]) for e in missed] == [
        ("signature", "hubs:allow[1]")
    ]
    assert missed[0]["remote"]["name"] == POOL
    assert found == ["own", "stratum-v1"]
    assert told in ("ConnectionAbortedError", "ConnectionResetError")
    assert here.pool.received == b""
