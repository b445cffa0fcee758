# SPDX-License-Identifier: Apache-2.0
"""Real containers start behind a wall or not at all: podman's hooks, and dockerd's runtime."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rig.admitting import ControlRoom, accepting, control_room, refusing
from rig.cgroup import temp_cgroup
from rig.containers import Engine, podman_engine, private_dockerd, spelled
from rig.process import wait_until
from rig.scratch import scratch

from agentwall.host.argv import ArgvReader
from agentwall.host.coverage import assess_coverage
from agentwall.host.exposure_of import Guarding, facts_of, look_at_host

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

MODULE = "agentwall.cli.admission"


@dataclass
class Host:
    """An engine whose containers are admitted, and what its daemon was asked."""

    engine: Engine
    room: ControlRoom
    options: tuple[str, ...]
    """Of ``run``."""
    shared: Path
    """A directory that containers may be given as /shared."""
    seen: list[dict[str, object]] = field(default_factory=list)
    """What the container was like, each time that the hook asked."""

    def sandbox(self, parent: Path, *command: str, options: tuple[str, ...] = ()):
        """Run a container; see :meth:`Engine.sandbox`."""
        volume = ("-v", f"{self.shared}:/shared")
        return self.engine.sandbox(parent, *command, options=(*self.options, *volume, *options))

    def look(self, request: dict[str, object]) -> dict[str, object]:
        """Note what there is before the answer, and admit."""
        if request["request"] == "admit":
            pid = int(str(request["pid"]))
            facts = facts_of([pid], look_at_host(), Guarding(cgroup="/x"), ArgvReader())
            self.seen.append(
                {
                    "comm": Path(f"/proc/{pid}/comm").read_text().strip(),
                    "cgroup": Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1],
                    "files": os.listdir(self.shared),
                    "unknown": facts.unknown,
                    "own_netns": facts.has_own_netns,
                }
            )
        return accepting(request)


@contextmanager
def podman(directory: Path, socket: Path) -> Iterator[tuple[Engine, tuple[str, ...]]]:
    hooks = directory / "hooks.d"
    hooks.mkdir()
    for stage, words in (("createRuntime", []), ("poststop", ["--release"])):
        arguments = [sys.executable, "-I", "-m", MODULE, f"--socket={socket}", *words]
        document = {
            "version": "1.0.0",
            "hook": {"path": arguments[0], "args": arguments, "timeout": 60},
            "when": {"always": True},
            "stages": [stage],
        }
        (hooks / f"agentwall-{stage}.json").write_text(json.dumps(document))
    with podman_engine("--hooks-dir", str(hooks)) as engine:
        yield engine, ()


@contextmanager
def docker(directory: Path, socket: Path) -> Iterator[tuple[Engine, tuple[str, ...]]]:
    runtime = directory / "agentwall-runc"
    program = f"{sys.executable} -I -m agentwall.cli.oci_runtime --agentwall-socket={socket}"
    runtime.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    runtime.chmod(0o755)
    with private_dockerd("--add-runtime", f"agentwall={runtime}") as engine:
        yield engine, ("--runtime", "agentwall")


@pytest.fixture(scope="module", params=[podman, docker], ids=["podman", "docker"])
def host(request) -> Iterator[Host]:
    with scratch("admission") as directory, control_room(directory / "c.sock") as room:
        shared = directory / "shared"
        shared.mkdir()
        with request.param(directory, room.path) as (engine, options):
            yield Host(engine=engine, room=room, options=options, shared=shared)


@pytest.fixture
def parent(host) -> Iterator[Path]:
    """A cgroup for containers; the daemon admits whatever is started there."""
    host.room.answer, host.seen = host.look, []
    host.room.requests.clear()
    for left in host.shared.iterdir():
        left.unlink()
    with temp_cgroup("admission") as made:
        yield made


def test_before_the_first_instruction(host, parent):
    """When the daemon is asked, the container has cgroup and namespaces, and has run nothing."""
    with host.sandbox(parent, "/bin/sh", "-c", "echo >/shared/ran; sleep 60") as container:
        wait_until(lambda: (host.shared / "ran").exists(), what="the container's command")
        [request], [seen] = host.room.asked("admit"), host.seen

        assert seen["comm"].startswith("runc:[")
        assert seen["cgroup"] == f"0::{spelled(parent)}/{container.directory.name}"
        assert (seen["files"], seen["own_netns"]) == ([], True)
        # Its capabilities and mounts are the runtime's still, which is not taken for its coverage.
        assert seen["unknown"] == ("the runtime is still making it",)
        assert (request["pid"], request["container"]) == (container.pid, container.id)
        assert Path(request["bundle"], "config.json").exists()
    wait_until(lambda: host.room.asked("release"), what="the poststop hook")
    assert host.room.asked("release")[0]["sandbox"] == container.id


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusing("not-permitted", "scope /x: policy 'y': expected one of it"), "not-permitted"),
        (lambda _: None, "ended before it answered"),
        (lambda _: b"\n", "not one line of JSON"),
    ],
)
def test_not_admitted(host, parent, answer, words):
    """A container that the daemon does not admit never runs, and its runtime says why."""
    host.room.answer = answer
    with (
        pytest.raises(RuntimeError, match=words),
        host.sandbox(parent, "/bin/sh", "-c", "echo >/shared/ran"),
    ):
        pass

    assert host.room.asked("admit")
    assert os.listdir(host.shared) == []


def test_no_daemon(host, parent):
    """Nor does one run where there is no daemon at all."""
    away = host.room.path.with_name("away")
    host.room.path.rename(away)
    try:
        with (
            pytest.raises(RuntimeError, match="the daemon is not running"),
            host.sandbox(parent, "/bin/sh", "-c", "echo >/shared/ran"),
        ):
            pass
    finally:
        away.rename(host.room.path)

    assert os.listdir(host.shared) == []


def test_policy_and_labels(host, parent):
    """Annotations are the labels, and one of them asks for a policy."""
    if host.engine.name == "docker":
        pytest.skip("this Docker has no --annotation")
    options = ("--annotation", "io.agentwall.policy=train", "--annotation", "episode=7")
    with host.sandbox(parent, options=options):
        [request] = host.room.asked("admit")

    assert request["policy"] == "train"
    assert request["labels"]["episode"] == "7"


def wait_for_command(container) -> None:
    """Wait until the runtime's process has become the command: the engine does not."""
    comm = Path(f"/proc/{container.pid}/comm")
    wait_until(lambda: comm.read_text() == "sleep\n", what="the container's command")


def coverage_of(container) -> dict[str, str]:
    wait_for_command(container)
    facts = facts_of(
        [container.pid], look_at_host(), Guarding(cgroup=container.cgroup), ArgvReader()
    )
    return {road.code: road.detail for road in assess_coverage(facts).roads}


def test_coverage(host, parent):
    """Once it runs, a container's roads are told: here what the engine leaves it by default."""
    with host.sandbox(parent, options=("--cap-drop", "ALL")) as container:
        roads = coverage_of(container)

    assert set(roads) <= {"socket families"}
    assert roads.get("socket families", "filter").endswith("filter are not known") or not roads


def test_coverage_of_a_careless_one(host, parent):
    """Capabilities, the host's processes, no seccomp, and a service's socket under another name."""
    added = ("NET_RAW", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE")
    options = [word for name in added for word in ("--cap-add", name)]
    options += ["--pid", "host", "--security-opt", "seccomp=unconfined"]
    volume = ("-v", f"{host.room.path}:/x/y.sock")
    with host.sandbox(parent, options=(*options, *volume)) as container:
        wait_for_command(container)
        view = look_at_host([str(host.room.path)])
        facts = facts_of([container.pid], view, Guarding(cgroup=container.cgroup), ArgvReader())

    assert set(facts.kept_capabilities) == set(added)
    assert not facts.has_own_pidns
    assert facts.host_sockets == (str(host.room.path),)
    assert facts.family_filter == "no seccomp filter"
