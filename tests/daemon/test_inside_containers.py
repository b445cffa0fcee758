# SPDX-License-Identifier: Apache-2.0
"""Containers with TLS libraries of their own under a real daemon: read, cut off, and said so."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest
from rig import tls_programs as programs
from rig.cli import run_agentwall
from rig.containers import Container
from rig.daemon import Daemon, daemon_ground
from rig.lab import lab
from rig.patient import patient
from rig.process import stop, wait_until
from rig.tls_clients import TlsClient, client
from rig.tls_containers import container_clients, library_in, tls_container, tls_engine
from rig.tls_service import NAME, Talk, TlsService, tls_service

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

POOLS = "203.0.100.0/24"
UNREAD = {"c-static": "static", "docker": "go"}
WAIT_S = 120.0
"""For what comes, sooner or later: the machine may be busy."""
CLIENTS = (*container_clients(), client("docker"))
# It has mapped its library long before it speaks.
_LATER = (
    "import runpy, ssl, sys\n"
    "print('ready', flush=True)\n"
    "sys.stdin.readline()\n"
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
)


@dataclass(slots=True, kw_only=True)
class Town:
    """A daemon, and two containers of one image."""

    daemon: Daemon
    pool: TlsService
    slow: TlsService
    """It answers once the daemon has told of the session."""
    older: Container
    """Older than the daemon."""
    newer: Container
    early: subprocess.Popen[str]
    """In the older one, and older than the daemon too: it mines when it is told to."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Of pools, by who was sent there."""

    def text_from(self, who: str) -> bytes:
        """Return what the pool got from a client, which has ended."""
        talks = [*self.pool.settle(0), *self.slow.settle(0)]
        return b"".join(each.text for each in talks if each.called == self.addresses[who])

    def told(self, kind: str, who: str) -> list[dict[str, object]]:
        """Return the events of a kind about a client."""
        return self.daemon.told(kind, self.addresses[who])

    def session_of(self, who: str) -> dict[str, object]:
        """Return the one TLS session of a client; if not read, it is told of a little later."""
        return self.daemon.session_to(self.addresses[who])

    def status(self) -> dict[str, object]:
        """Return what the daemon says of reading inside TLS."""
        with self.daemon.client() as asked:
            return asked.status()["tls"]

    def listed(self) -> list[dict[str, object]]:
        """Return what the daemon says of the library that both containers have."""
        # Overlays show the numbers of files below, if all is on one file system.
        inodes = {os.stat(library_in(each)).st_ino for each in (self.older, self.newer)}
        assert len(inodes) == 1
        return [each for each in self.status()["libraries"] if each["inode"] in inodes]

    def says(self, *words: str) -> str:
        """Return what the command line tool prints, as one line."""
        done = run_agentwall(*words)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())


def is_told_of(daemon: Daemon, talk: Talk) -> bool:
    return bool(daemon.told("tls", talk.called))


def words_of(each: TlsClient, address: str, pool: TlsService) -> list[str]:
    return each.argv(address, pool.port, server_name=NAME if each.names else None)


def shown() -> list[str]:
    """The words for podman that show a container Docker's client and what it reads."""
    if programs.missing_docker():
        return []
    words = client("docker").argv("203.0.100.1", 1)
    configuration = words[words.index("--config") + 1]
    places = (programs.docker(), programs.AUTHORITIES, configuration)
    return [word for place in places for word in ("--volume", f"{place}:{place}:ro")]


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Iterator[Town]:
    with ExitStack() as stack:
        enter = stack.enter_context
        made = enter(lab())
        daemon = enter(daemon_ground(tmp_path_factory.mktemp("daemon")))
        daemon.policy("work", f"allow: [{{cidr: {POOLS}, ports: [any]}}]\n")
        daemon.configure(default="work", tls="auto")
        engine = enter(tls_engine())
        pool = enter(tls_service(made.far, "0.0.0.0"))
        # So long its clients are there to be looked at.
        until = partial(is_told_of, daemon)
        slow = enter(tls_service(made.far, "0.0.0.0", until=until))
        older = enter(tls_container(engine, daemon.scope, made.near.path, shown()))
        early = begin_early(older, words_of(client("python"), "203.0.100.1", pool))
        stack.callback(end_early, early)
        daemon.prefix = patient()
        daemon.start()
        stack.callback(daemon.stop)
        newer = enter(tls_container(engine, daemon.scope, made.near.path, shown()))
        for each in (older, newer):
            daemon.wait_for_sandbox(each.directory)
        town = Town(daemon=daemon, pool=pool, slow=slow, older=older, newer=newer, early=early)
        town.addresses["early"] = "203.0.100.1"
        # What is listed is brought up to date every few seconds; their scope is a sandbox as well.
        wait_until(
            lambda: any(each["sandboxes"] >= 2 for each in town.listed()),
            what="reading inside TLS",
            timeout_s=WAIT_S,
        )
        yield town


def begin_early(container: Container, words: list[str]) -> subprocess.Popen[str]:
    python, *_, script, mode, host, port, until, pieces, name, text = words
    said = [script, mode, host, port, until, pieces, name, text]
    command = container.engine.command("exec", "-i", container.id, python, "-c", _LATER, *said)
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def end_early(child: subprocess.Popen[str]) -> None:
    stop(child)
    for stream in (child.stdin, child.stdout):
        assert stream is not None
        stream.close()


@pytest.fixture(scope="module")
def mined(town) -> dict[str, int]:
    """Each client's exit code; they mined one after the other, in the newer container."""
    codes = {}
    for each in CLIENTS:
        if each.available() is None:
            address = f"203.0.100.{2 + len(codes)}"
            town.addresses[each.name] = address
            pool = town.slow if each.name in UNREAD else town.pool
            codes[each.name] = town.newer.run(*words_of(each, address, pool)).returncode
    return codes


def code_of(mined: dict[str, int], name: str) -> int:
    if name not in mined:
        pytest.skip(f"{name}: {client(name).available()}")
    return mined[name]


@pytest.mark.parametrize("name", [each.name for each in CLIENTS if each.name not in UNREAD])
def test_miner_in_a_container(town, mined, name):
    """A client over the container's own library is found and cut off before a line is out."""
    code = code_of(mined, name)
    (found,) = [each for each in town.told("detection", name) if each["class"] == "mining"]
    session = town.session_of(name)

    assert code != 0
    assert (found["verdict"], found["evidence"]["inside"]) == ("deny", "tls")
    assert found["sandbox"]["id"] == town.newer.id[:12]
    assert (session["read"], session["reading"]["library"]) == (True, client(name).library)
    assert b"id" not in town.text_from(name).partition(b"\r\n\r\n")[2]
    assert found["bytes_left"] == len(town.text_from(name))


@pytest.mark.parametrize("name", UNREAD)
def test_unread_in_a_container(town, mined, name):
    """Whose text is not read gets through, and the log says why it was not read."""
    code = code_of(mined, name)

    assert code == 0
    assert town.session_of(name)["reading"]["unread"] == UNREAD[name]
    assert town.told("detection", name) == []


def test_older_than_the_daemon(town, mined):
    """A process that had its library mapped before there was a daemon is read all the same."""
    town.early.stdin.write("\n")
    town.early.stdin.flush()
    code = town.early.wait(timeout=WAIT_S)
    (found,) = town.told("detection", "early")

    assert code == 1
    assert (found["verdict"], found["sandbox"]["id"]) == ("deny", town.older.id[:12])
    assert town.text_from("early") == b""


def test_attached_once(town, mined):
    """Both containers have the image's library below their overlays: it is probed once."""
    (theirs,) = town.listed()

    assert len({os.stat(library_in(each)).st_dev for each in (town.older, town.newer)}) == 2
    assert (theirs["library"], theirs["sandboxes"] >= 2) == ("openssl", True)


def test_status_tells(town, mined):
    """``status`` says that it reads, and how many of the sessions were read."""
    sessions = town.status()["sessions"]
    text = town.says("status", "--socket", str(town.daemon.socket))

    assert sessions["seen"] - sessions["joined"] == len(set(UNREAD) & set(mined))
    assert "inside TLS on (bcc " in text
    assert f"{sessions['joined']} of {sessions['seen']} sessions read" in text


def test_sandbox_show_tells(town, mined):
    """``sandbox show`` says how much of a container's TLS was read, and why the rest was not."""
    socket = str(town.daemon.socket)
    text = town.says("sandbox", "show", town.newer.id[:12], "--socket", socket)
    unread = [name for name in UNREAD if name in mined]

    assert f"inside TLS {len(mined) - len(unread)} of {len(mined)} sessions read" in text
    assert all(f"1 {UNREAD[name]}" in text.partition("not read: ")[2] for name in unread)


def test_log_tells(town, mined):
    """``log`` has a line for each session, with the reason where it was not read."""
    text = town.says("log", "--kind", "tls", "--file", str(town.daemon.log))

    assert f"TLS to {NAME} at {town.addresses['c-ex']}" in text
    assert "not read: static binary" in text
    if "docker" in mined:
        assert "not read: Go binary" in text


def test_audit_tells(town, mined):
    """``audit`` of the daemon's log counts the same."""
    words = ["audit", "--fail-on", "never", "--format", "json", str(town.daemon.log)]
    inside = json.loads(run_agentwall(*words).stdout)["inside_tls"]

    assert inside["sessions"] - inside["read_sessions"] == len(set(UNREAD) & set(mined))
    assert {row["reading"]["unread"] for row in inside["not_read"]} == {
        UNREAD[name] for name in UNREAD if name in mined
    }
