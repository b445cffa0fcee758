# SPDX-License-Identifier: Apache-2.0
"""Containers that crun, containerd and Docker make, under a real daemon that reads inside TLS."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rig import tls_first as first
from rig.cli import run_agentwall
from rig.containers import spelled, without_hierarchies_of_version_1
from rig.daemon import Daemon, daemon_ground
from rig.lab import Lab, lab
from rig.patient import START_S, patient
from rig.process import wait_until
from rig.runtimes import (
    MISSING,
    Box,
    Maker,
    Start,
    by_containerd,
    by_crun,
)
from rig.tls_clients import client
from rig.tls_service import TlsService, tls_service

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

POOLS = "203.0.100.0/24"
POLICY = f"allow: [{{cidr: {POOLS}, ports: [any]}}]\n"
MULTIARCH = f"/usr/lib/{platform.machine()}-linux-gnu"
CLIENT = client("c-plain")
BUSYBOX = dict.fromkeys(("/bin/sleep", "/bin/nc"), Path("/usr/bin/busybox"))
TRIES = 4
EPISODE = {"io.agentwall.episode": "17", "role": "rollout"}
Done = subprocess.CompletedProcess[str]


@dataclass(slots=True, kw_only=True)
class Town:
    """A daemon with an owned scope, and whom its sandboxes may call."""

    daemon: Daemon
    lab: Lab
    pool: TlsService
    directory: Path
    sockets: dict[str, Path] = field(default_factory=dict)
    """Of runtimes that the daemon may ask."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def configure(self) -> None:
        sockets = "".join(f"  {name}: {path}\n" for name, path in self.sockets.items())
        more = f"runtimes:\n{sockets}" if sockets else ""
        self.daemon.configure(more, default="work", tls="auto")

    def address(self) -> str:
        """Return an address of the pool that nobody else calls."""
        return f"203.0.100.{next(self.numbers)}"

    def words(self, address: str, *, mines: bool) -> tuple[str, ...]:
        """Return the command of a client in an image."""
        lines = CLIENT.mining() if mines else CLIENT.chat()
        return tuple(first.speak_words(CLIENT.argv(address, self.pool.port, lines), first.SPEAK))

    def image(self, maker: Maker, place: str = MULTIARCH) -> str:
        """Give *maker* an image whose libssl no process has ever mapped; return its name."""
        archive, name = first.write_image(self.directory, place, BUSYBOX)
        maker.load(archive, name)
        return name

    def start(self, image: str, *command: str, **options: object) -> Start:
        words = {"command": command} if command else {}
        return Start(image=image, parent=self.daemon.scope, **words, **options)

    def first(
        self,
        maker: Maker,
        run: Callable[[Start], Done] | None = None,
        *,
        image: str | None = None,
        place: str = MULTIARCH,
        mines: bool = True,
        **options: object,
    ) -> tuple[str, Done]:
        """Run a container that the hook asks for, and whose first act is TLS.

        The hook waits for a while only, which a busy machine may need for other things: who was
        not read after that is no failure, and another is tried.

        Args:
            maker: Of the container.
            run: What it runs it by, if not as usual.
            image: If not a new one.
            place: Of the library in a new one.
            mines: What it says.
            options: Of :class:`Start`.

        Returns:
            Whom it called, and how it ended.
        """
        for _ in range(TRIES):
            address, name = self.address(), image or self.image(maker, place)
            words = self.words(address, mines=mines)
            done = (run or maker.run)(self.start(name, *words, **options))
            if self.daemon.session_to(address)["read"] or self.waited_s(address) < START_S:
                break
        return address, done

    def waited_s(self, address: str) -> float:
        """Return how long who called *address* was on its way since its hook asked."""
        call = self.daemon.told("flow", address)[0]
        asked = self.births(call["sandbox"]["id"])[-1]
        return (call["mono_ns"] - asked["mono_ns"]) / 1e9

    def births(self, sandbox: str) -> list[dict[str, object]]:
        """Return the events that say how a sandbox was admitted."""
        found = [each for each in self.daemon.events("state") if each["sandbox"]["id"] == sandbox]
        return [each for each in found if "admission" in (each["detail"] or {})]

    def text(self, address: str) -> bytes:
        """Return what the pool got there."""
        return b"".join(each.text for each in self.pool.settle(0) if each.called == address)

    def left_hanging(self, sandbox: str) -> list[object]:
        """Return what is said of its flows whose sockets could not be ended."""
        states = [e for e in self.daemon.events("state") if e["state"] == "flow-left-hanging"]
        return [each["detail"] for each in states if each["sandbox"]["id"] == sandbox]

    def assert_cut_off(self, address: str) -> dict[str, object]:
        """Who mined at *address* was read and cut off before an octet left; return whose it is."""
        session = self.daemon.session_to(address)
        assert session["read"], f"{session['reading']}, after {self.waited_s(address)} s"
        [found] = [
            each for each in self.daemon.told("detection", address) if each["class"] == "mining"
        ]

        assert session["reading"]["unread"] is None
        assert (found["verdict"], found["evidence"]["inside"]) == ("deny", "tls")
        assert (found["bytes_left"], self.text(address)) == (0, b"")
        assert found["sandbox"]["id"] == session["sandbox"]["id"]
        assert self.left_hanging(found["sandbox"]["id"]) == []
        return found["sandbox"]


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Iterator[Town]:
    with ExitStack() as stack:
        enter = stack.enter_context
        made = enter(lab())
        pool = enter(tls_service(made.far, "0.0.0.0"))
        daemon = enter(daemon_ground(tmp_path_factory.mktemp("daemon")))
        enter(without_hierarchies_of_version_1(spelled(daemon.scope)))
        daemon.policy("work", POLICY)
        daemon.policy("rollout", POLICY + "match: [{labels: {role: rollout}}]\n")
        directory = tmp_path_factory.mktemp("images")
        town = Town(daemon=daemon, lab=made, pool=pool, directory=directory)
        town.configure()
        daemon.prefix = patient()
        daemon.start()
        stack.callback(daemon.stop)
        wait_until(lambda: reads(daemon), what="reading inside TLS", timeout_s=120)
        yield town


def reads(daemon: Daemon) -> bool:
    with daemon.client() as asked:
        return asked.status()["tls"]["state"] == "on"


Making = Callable[..., AbstractContextManager[Maker]]


@pytest.fixture(scope="module", params=MISSING, ids=lambda each: each.__name__)
def maker(request, town, tmp_path_factory) -> Iterator[Maker]:
    """Each of the runtimes, which may be asked by the daemon if it can be."""
    making: Making = request.param
    if reason := MISSING[making]():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("runtime")
    with making(directory, town.daemon, town.lab.near) as made:
        town.sockets[made.runtime] = made.socket
        town.configure()
        town.daemon.reload()
        yield made


def only(*makings: Making) -> pytest.MarkDecorator:
    """Use some of the runtimes alone."""
    return pytest.mark.parametrize(
        "maker", makings, indirect=True, scope="module", ids=lambda each: each.__name__
    )


@pytest.mark.parametrize(
    ("place", "variables"),
    [(MULTIARCH, {}), ("/app/own", {"LD_LIBRARY_PATH": "/app/own"})],
    ids=["installed", "library-path"],
)
def test_first_process(town, maker, place, variables):
    """With the hook a container's first word is read, and does not leave where a miner says it."""
    options = {"annotations": EPISODE, "variables": variables}
    address, done = town.first(maker, place=place, **options)
    sandbox = town.assert_cut_off(address)

    assert done.returncode == 1, done.stderr
    assert sandbox["origin"]["runtime"] == maker.runtime
    assert sandbox["origin"]["container"].startswith(sandbox["id"])
    last = town.births(sandbox["id"])[-1]["detail"]
    assert (last["admission"], last["unwatched_ms"]) == ("hook", 0)
    if maker.annotates:
        assert sandbox["labels"] == {"episode": "17"}
        assert sandbox["policy"]["name"] == "rollout"


def test_benign_first_process(town, maker):
    """One that says nothing of the kind is read and let through."""
    address, done = town.first(maker, mines=False)
    session = town.daemon.session_to(address)

    assert done.returncode == 0, done.stderr
    assert session["read"], f"{session['reading']}, after {town.waited_s(address)} s"
    assert town.daemon.told("detection", address) == []
    assert town.text(address).decode().splitlines() == list(CLIENT.chat())


def test_denied_from_birth(town, maker):
    """The scope's policy holds for what a container does first, whether or not a hook asks."""
    address = f"198.51.100.{next(town.numbers)}"
    done = maker.run(
        town.start(town.image(maker), "/bin/nc", "-w", "1", address, "443", asks=False)
    )
    [denial] = town.daemon.told("flow", address)

    assert done.returncode != 0
    assert (denial["verdict"], denial["reason"]["code"]) == ("deny", "no-rule")
    assert denial["sandbox"]["id"] in denial["sandbox"]["cgroup"]


def is_probed(town: Town, box: Box) -> bool:
    """Say whether the library of a container is, which lies below its snapshot or layer."""
    inode = os.stat(f"/proc/{box.pid}/root{MULTIARCH}/libssl.so.3").st_ino
    with town.daemon.client() as asked:
        return any(each["inode"] == inode for each in asked.status()["tls"]["libraries"])


def test_found_without_the_hook(town, maker):
    """Its library is found in its root, its runtime tells who it is, and its end is seen."""
    mined, chatted = town.address(), town.address()
    with maker.box(town.start(town.image(maker), asks=False, annotations=EPISODE)) as box:
        found = town.daemon.wait_for_sandbox(box.directory)
        wait_until(lambda: is_probed(town, box), what="a probed library")
        done = [
            box.run(*town.words(address, mines=mines))
            for address, mines in ((mined, True), (chatted, False))
        ]
        wait_until(
            lambda: town.daemon.sandbox_at(box.directory)["policy"] == "rollout",
            what="what its runtime says of it",
        )
        named = town.daemon.sandbox_at(box.directory)
    wait_until(lambda: town.daemon.sandbox_at(box.directory) is None, what="its end")

    assert found["admission"] == "found"
    assert (named["id"], named["origin"]["container"]) == (box.id[:12], box.id)
    assert named["origin"]["runtime"] == maker.runtime
    assert [each.returncode for each in done] == [1, 0], done
    assert town.assert_cut_off(mined)["id"] == box.id[:12]
    assert town.text(chatted).decode().splitlines() == list(CLIENT.chat())
    assert audited(town, mined) == {box.id[:12]}


def audited(town: Town, address: str) -> set[str]:
    """Return the sandboxes that ``audit`` names for what was found at *address*."""
    words = ["audit", "--fail-on", "never", "--format", "json", str(town.daemon.log)]
    found = json.loads(run_agentwall(*words).stdout)["findings"]
    return {each["sandbox"] for each in found if address in json.dumps(each)}


@only(by_crun, by_containerd)
def test_refused(town, maker):
    """One that asks for a policy that it may not have does not start, and is told why."""
    address = town.address()
    words = town.words(address, mines=False)
    said = town.directory / f"{maker.runtime}.stderr"
    # What crun does with what a hook says; runc tells whoever started the container.
    annotations = {"io.agentwall.policy": "nosuch", "run.oci.hooks.stderr": str(said)}
    done = maker.run(town.start(town.image(maker), *words, annotations=annotations))

    assert done.returncode != 0
    assert "got nosuch (invalid)" in (said.read_text() if said.exists() else done.stderr)
    assert not [each for each in town.pool.settle(0) if each.called == address]


@only(by_crun)
def test_crun_in_place_of_runc(town, maker):
    """``agentwall-runc`` takes crun for runc where it is told to, and the hooks are run as well."""
    behind = dataclasses.replace(maker, asking=(("--runtime", str(maker.program)), ()))
    address, done = town.first(behind, annotations=EPISODE)
    sandbox = town.assert_cut_off(address)

    assert done.returncode == 1, done.stderr
    assert town.births(sandbox["id"])[-1]["detail"]["admission"] == "hook"
    assert sandbox["labels"] == {"episode": "17"}


@only(by_containerd)
def test_a_snapshot_of_copies(town, maker):
    """Where each container has copies of the image's files, the library of each is probed."""
    copying = dataclasses.replace(maker, snapshotter="native")
    image = town.image(copying)
    addresses = [town.first(copying, image=image)[0] for _ in range(2)]

    assert len({town.assert_cut_off(each)["id"] for each in addresses}) == 2


@only(by_containerd)
def test_hook_in_the_configuration(town, maker):
    """Who writes the container's configuration needs no other runtime: the hook stands in it."""
    address, done = town.first(maker, maker.run_configured, annotations=EPISODE)
    sandbox = town.assert_cut_off(address)

    assert done.returncode == 1, done.stderr
    assert sandbox["origin"]["runtime"] == "containerd"
    assert town.births(sandbox["id"])[-1]["detail"]["admission"] == "hook"
    assert (sandbox["labels"], sandbox["policy"]["name"]) == ({"episode": "17"}, "rollout")
