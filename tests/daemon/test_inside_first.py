# SPDX-License-Identifier: Apache-2.0
"""Who speaks TLS as its first act, over a library nobody has mapped yet: read, or said not to be.

Under a real daemon with podman's hook, and under ``agentwall run``.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig import tls_first as first
from rig.cli import run_agentwall
from rig.containers import Engine, podman_engine, spelled, without_hierarchies_of_version_1
from rig.daemon import Daemon, daemon_ground
from rig.lab import Lab, lab
from rig.patient import patient
from rig.process import run_checked, wait_until
from rig.tls_clients import client
from rig.tls_service import TlsService, tls_service

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

POOLS = "203.0.100.0/24"
POLICY = f"allow: [{{cidr: {POOLS}, ports: [any]}}]\n"
MULTIARCH = f"/usr/lib/{platform.machine()}-linux-gnu"
WAIT_S = 120.0
"""For what comes, sooner or later: the machine may be busy."""
UNREAD = {"late", "gone"}
"""How a session is told of that came before its probes; the process may have ended, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A daemon, and podman whose hook asks it."""

    daemon: Daemon
    engine: Engine
    lab: Lab
    pool: TlsService
    directory: Path

    def mine(self, address: str, image: str, *options: str) -> str:
        """Run a container whose first process mines at once; return how it ended."""
        words = first.speak_words(client("c-plain").argv(address, self.pool.port), first.SPEAK)
        where = ["--cgroup-parent", spelled(self.daemon.scope)]
        where += ["--network", f"ns:{self.lab.near.path}"]
        run = ("run", "--rm", *where, *self.engine.run_options, *options, image, *words)
        command = self.engine.command(*run)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
        return f"code {done.returncode}: {done.stdout}{done.stderr}"

    def text(self, address: str) -> bytes:
        """Return what the pool got there."""
        return b"".join(each.text for each in self.pool.settle(0) if each.called == address)


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Iterator[tuple[Lab, TlsService]]:
    """Somewhere to call, and who answers there."""
    with lab() as made, tls_service(made.far, "0.0.0.0") as pool:
        yield made, pool


@pytest.fixture(scope="module")
def stand(tmp_path_factory, ground) -> Iterator[Stand]:
    """The daemon reads inside TLS by the time that podman is asked for anything."""
    made, pool = ground
    directory = tmp_path_factory.mktemp("first")
    with ExitStack() as stack:
        daemon = stack.enter_context(daemon_ground(tmp_path_factory.mktemp("daemon")))
        daemon.policy("work", POLICY)
        daemon.configure(default="work", tls="auto")
        hooks = tmp_path_factory.mktemp("hooks")
        module = ("-m", "agentwall.cli.admission", f"--socket={daemon.socket}")
        hook = {"path": sys.executable, "args": [sys.executable, "-I", *module], "timeout": 15}
        document = {"version": "1.0.0", "hook": hook, "when": {"always": True}}
        stages = {"stages": ["createRuntime"]}
        (hooks / "agentwall.json").write_text(json.dumps({**document, **stages}))
        stack.enter_context(without_hierarchies_of_version_1(spelled(daemon.scope)))
        engine = stack.enter_context(podman_engine("--hooks-dir", str(hooks)))
        daemon.prefix = patient()
        daemon.start()
        stack.callback(daemon.stop)
        wait_until(lambda: reads(daemon), what="reading inside TLS", timeout_s=WAIT_S)
        yield Stand(daemon=daemon, engine=engine, lab=made, pool=pool, directory=directory)


def reads(daemon: Daemon) -> bool:
    with daemon.client() as asked:
        return asked.status()["tls"]["state"] == "on"


@pytest.mark.parametrize(
    ("address", "place", "options"),
    [
        ("203.0.100.1", MULTIARCH, ()),
        ("203.0.100.2", "/app/own", ("--env", "LD_LIBRARY_PATH=/app/own")),
    ],
    ids=["installed", "library-path"],
)
def test_first_process_of_an_image(stand, address, place, options):
    """The hook waits until the image's own library is probed: the first word is not out."""
    image = first.import_image(stand.engine, stand.directory, place)
    ended = stand.mine(address, image, *options)
    session = stand.daemon.session_to(address)
    mining = [each for each in stand.daemon.told("detection", address) if each["class"] == "mining"]

    assert len(mining) == 1, ended
    [found] = mining
    assert (session["read"], session["reading"]["unread"]) == (True, None)
    assert (found["verdict"], found["evidence"]["inside"]) == ("deny", "tls")
    assert stand.text(address) == b""


def test_library_where_nothing_says(stand):
    """One that the program finds by itself is met when it is mapped: read, or told as not read."""
    address = "203.0.100.3"
    image = first.import_image(stand.engine, stand.directory, "/app/hidden")
    # What the dynamic linker is told as an argument nobody else looks at.
    loader = first.dynamic_linker()
    words = first.speak_words(client("c-plain").argv(address, stand.pool.port), first.SPEAK)
    where = ["--cgroup-parent", spelled(stand.daemon.scope)]
    where += ["--network", f"ns:{stand.lab.near.path}"]
    run = ("run", "--rm", *where, *stand.engine.run_options, image)
    by_itself = (loader, "--library-path", f"/app/hidden:{MULTIARCH}", *words)
    subprocess.run(
        stand.engine.command(*run, *by_itself), capture_output=True, check=False, timeout=WAIT_S
    )
    session = stand.daemon.session_to(address)
    found = stand.daemon.told("detection", address)

    assert session["read"] or session["reading"]["unread"] in UNREAD
    # Probes that come between its hello and its first word find that word all the same.
    assert found or not session["read"]


def test_all_say_the_same(stand, tmp_path):
    """Of who came too early ``sandbox show`` and ``audit`` tell what the events do."""
    words = client("c-plain").argv("203.0.100.4", stand.pool.port)
    enter = ("nsenter", f"--net={stand.lab.near.path}", "env")
    with stand.daemon.sandbox("early") as cgroup, stand.daemon.client() as asked:
        named = stand.daemon.wait_for_sandbox(cgroup)["id"]
        for number in range(3):
            own = first.write_own_library(tmp_path / str(number)).parent
            stand.daemon.run(cgroup, *enter, f"LD_LIBRARY_PATH={own}", *words)
        # Who came too early is told of when it has been looked at.
        wait_until(lambda: len(stand.daemon.told("tls", "203.0.100.4")) == 3, what="three sessions")
        sessions = stand.daemon.told("tls", "203.0.100.4")
        shown = asked.sandbox(named)["tls"]
    audit = ["audit", "--fail-on", "never", "--format", "json", str(stand.daemon.log)]
    audited = json.loads(run_agentwall(*audit).stdout)["inside_tls"]

    everybody = stand.daemon.events("tls")
    unread = Counter(each["reading"]["unread"] for each in sessions if not each["read"])
    assert set(unread) <= UNREAD
    assert (shown["sessions"], shown["joined"]) == (3, 3 - unread.total())
    assert audited["sessions"] == len(everybody)
    assert audited["read_sessions"] == sum(each["read"] for each in everybody)
    assert {row["reading"]["unread"] for row in audited["not_read"]} >= set(unread)


def test_admission_says_whether(stand, tmp_path):
    """Of a container that waits it is told whether what is installed was probed by then."""
    with stand.daemon.sandbox("by-hand") as cgroup:
        sleeper = subprocess.Popen(["/bin/sleep", "1000"])
        try:
            (cgroup / "cgroup.procs").write_text(str(sleeper.pid))
            with stand.daemon.client() as asked:
                bundled = {"pid": sleeper.pid, "bundle": str(tmp_path)}
                found = [asked.request("admit", each) for each in ({"pid": sleeper.pid}, bundled)]
        finally:
            sleeper.kill()
            sleeper.wait()

    assert [each["tls_prepared"] for each in found] == [None, True]


def test_first_commands_of_a_run(ground, tmp_path):
    """Before a command is executed its own directories are looked into: by path and environment."""
    made, pool = ground
    own = first.write_own_library(tmp_path / "own").parent
    other = first.write_own_library(tmp_path / "env" / "lib").parent
    program = tmp_path / "env" / "bin" / "speak"
    program.parent.mkdir()
    path, *words = client("c-plain").argv("203.0.100.10", pool.port)
    run_checked("cp", path, str(program))
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\n{path} "$@"\nLD_LIBRARY_PATH={other} exec {program} "$@"\n')
    script.chmod(0o755)
    policy, events = tmp_path / "policy.yaml", tmp_path / "events.jsonl"
    policy.write_text(f"version: 1\nname: first\n{POLICY}")
    command = ["/usr/bin/env", f"LD_LIBRARY_PATH={own}", f"PATH={program.parent}:/usr/bin:/bin"]
    command += [*patient(), sys.executable, "-m", "agentwall", "run", "--policy", str(policy)]
    command += ["--events", str(events), "--", str(script), *words]
    done = made.near.run(*command, timeout_s=WAIT_S)
    told = [json.loads(line) for line in events.read_text().splitlines()]
    sessions = [each["read"] for each in told if each["kind"] == "tls"]

    assert sessions == [True, True], done.stderr
