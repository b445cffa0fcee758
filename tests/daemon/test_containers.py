# SPDX-License-Identifier: Apache-2.0
"""Real containers under a real daemon: by podman's hook, through dockerd, and without any hook."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.containers import podman_engine, podman_service, private_dockerd, spelled
from rig.daemon import daemon_ground
from rig.process import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ADMISSION = "agentwall.cli.admission"
PROBE = "nc -w 3 127.0.0.1 1 2>&1; true"
ROLLOUT = """
allow: [{cidr: 127.0.0.1, ports: [any]}]
match: [{labels: {role: rollout}}]
phases:
  setup: {}
  agent: {deny: [{cidr: 127.0.0.1}]}
"""


@pytest.fixture(scope="module")
def shared():
    """The cgroup of a shared scope."""
    with temp_cgroup("shared") as made:
        yield made


@pytest.fixture(scope="module")
def ground(tmp_path_factory, shared):
    """A daemon with an owned scope and a shared one, and a policy for labelled rollouts."""
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.policy("rollout", ROLLOUT)
        configure(daemon, shared)
        daemon.start()
        yield daemon


def configure(daemon, shared: Path, **runtimes: object) -> None:
    """Write the configuration, with the sockets of these runtimes."""
    daemon.configure(
        f"  - {{cgroup: {spelled(shared)}, kind: shared}}\n"
        + "".join(f"runtimes: {{{name}: {path}}}\n" for name, path in runtimes.items())
    )


@pytest.fixture(scope="module")
def podman(ground, tmp_path_factory):
    """Podman whose hook asks the daemon."""
    hooks = tmp_path_factory.mktemp("hooks")
    command = [
        sys.executable,
        "-I",
        "-m",
        ADMISSION,
        f"--socket={ground.socket}",
        "--allow-unmatched",
    ]
    document = {
        "version": "1.0.0",
        "hook": {"path": command[0], "args": command, "timeout": 15},
        "when": {"always": True},
        "stages": ["createRuntime"],
    }
    (hooks / "agentwall.json").write_text(json.dumps(document))
    with podman_engine("--hooks-dir", str(hooks)) as engine:
        yield engine


def wait_until_named(client, name: str) -> dict[str, object]:
    """Wait until the sandbox's runtime has told its name, and return it."""
    deadline_s = time.monotonic() + 60
    while True:
        found = [each for each in client.sandboxes() if each["origin"]["name"] == name]
        if found:
            return found[0]
        assert time.monotonic() < deadline_s, client.sandboxes()
        time.sleep(0.1)


def test_a_container_is_bound_before_its_first_instruction(ground, podman):
    """The hook binds it by its annotations; what it does first is judged by its policy."""
    options = ("--annotation", "role=rollout", "--annotation", "io.agentwall.episode=17")
    with podman.sandbox(ground.scope, options=options) as box, ground.client() as client:
        found = client.sandbox(box.id)
        said = box.run("/bin/sh", "-c", PROBE).stdout
        client.phase(box.id, "agent")
        then = box.run("/bin/sh", "-c", PROBE).stdout
        denials = client.denials(box.id, episode="17")

    assert (found["policy"], found["phase"]) == ("rollout", "setup")
    assert (found["admission"], found["unwatched_ms"]) == ("hook", 0)
    assert found["labels"] == {"episode": "17", "phase": "setup"}
    assert "refused" in said
    assert "Operation not permitted" in then
    assert denials.denied == 1
    assert denials.denials[0]["rule"] == "rollout:phases.agent.deny[0]"


def test_a_container_of_no_policy_has_the_default_from_birth(ground, podman):
    """In an owned scope nothing is left out."""
    first = "nc -w 3 203.0.113.7 443; sleep 1000"
    with (
        podman.sandbox(ground.scope, "/bin/sh", "-c", first) as box,
        ground.client() as client,
    ):
        found = client.sandbox(box.id)
        wait_until(lambda: client.denials(box.id), what="what it does first")
        denial = client.denials(box.id).denials[0]

    assert found["policy"] == "deny-all"
    assert (denial["remote"], denial["reason"]) == ("203.0.113.7 port 443", "no-rule")


def test_a_policy_that_may_not_be_had_fails_the_start(ground, podman):
    """The runtime refuses to start what the daemon refuses to bind, and says why."""
    options = ("--annotation", "io.agentwall.policy=nosuch")
    with (
        pytest.raises(RuntimeError, match=r"expected one of .* got nosuch"),
        podman.sandbox(ground.scope, options=options),
    ):
        pass


def test_a_shared_scope_leaves_others_alone(ground, shared, podman):
    """A container of no policy is none of our business there; one of a policy is bound."""
    with podman.sandbox(shared) as other, ground.client() as client:
        bound = [each for each in client.sandboxes() if each["origin"]["container"] == other.id]
        said = other.run("/bin/sh", "-c", PROBE).stdout
        options = ("--annotation", "role=rollout")
        with podman.sandbox(shared, options=options) as box:
            found = client.sandbox(box.id)

    assert bound == []
    assert "refused" in said
    assert (found["policy"], found["scope"]) == ("rollout", spelled(shared))


def test_the_runtime_tells_what_no_hook_told(ground, shared):
    """Without a hook the sandbox is found by its cgroup, and named by podman's own service."""
    with podman_engine() as engine, podman_service(engine) as socket:
        configure(ground, shared, podman=socket)
        ground.reload()
        labels = {"role": "rollout"}
        with (
            engine.sandbox(ground.scope, name="found-1", labels=labels) as box,
            ground.client() as client,
        ):
            found = wait_until_named(client, "found-1")

    assert found["origin"]["runtime"] == "podman"
    assert found["origin"]["container"] == box.id
    assert found["origin"]["labels"]["role"] == "rollout"
    assert (found["admission"], found["policy"]) == ("found", "rollout")
    assert found["unwatched_ms"] is not None


def test_dockerd_starts_its_containers_behind_the_wall(ground, shared, tmp_path):
    """Through the runtime entry: the same hook, and the label of ``docker run --label``."""
    runtime = tmp_path / "agentwall-runc"
    program = f"{sys.executable} -I -m agentwall.cli.oci_runtime"
    socket = f"--agentwall-socket={ground.socket}"
    runtime.write_text(f'#!/bin/sh\nexec {program} {socket} "$@"\n')
    runtime.chmod(0o755)
    with private_dockerd("--add-runtime", f"agentwall={runtime}") as engine:
        configure(ground, shared, docker=engine.socket)
        ground.reload()
        with (
            engine.sandbox(
                ground.scope,
                name="docked",
                labels={"role": "rollout"},
                options=("--runtime", "agentwall"),
            ) as box,
            ground.client() as client,
        ):
            admission = client.sandbox(box.id)["admission"]
            found = wait_until_named(client, "docked")

    assert admission == "hook"
    assert (found["origin"]["runtime"], found["policy"]) == ("docker", "rollout")
    assert found["origin"]["image"].startswith("agentwall-test")
