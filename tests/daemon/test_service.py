# SPDX-License-Identifier: Apache-2.0
"""The daemon as a whole: real processes in real cgroups, and what it says of them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rig.cgroup import in_cgroup
from rig.daemon import daemon_ground
from rig.process import wait_until

from agentwall.client import Invalid, NotFound
from agentwall.errors import ControlError, KernelError
from agentwall.kernel import pins
from agentwall.kernel.links import Link, open_pin

pytestmark = pytest.mark.kernel

CONNECT = """
import socket, sys
with socket.socket() as s:
    s.settimeout(60)
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
    except OSError as err:
        sys.exit(err.errno)
"""
EPERM, ECONNREFUSED = 1, 111


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A daemon with a policy for web-*, one with phases for rl-*, and one for labelled ones."""
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as daemon:
        own = daemon.scope_path
        daemon.policy(
            "web",
            f"allow: [{{cidr: 127.0.0.1, ports: [any]}}]\nmatch: [{{cgroup: {own}/web-*}}]\n",
        )
        daemon.policy(
            "rl",
            f"""
            match: [{{cgroup: {own}/rl-*}}]
            phases:
              setup: {{allow: [{{cidr: 127.0.0.1, ports: [any]}}]}}
              agent: {{deny: [{{cidr: 127.0.0.1}}]}}
            """,
        )
        daemon.policy(
            "claimed", "allow: [{cidr: 127.0.0.1, ports: [any]}]\nmatch: [{labels: {role: web}}]\n"
        )
        daemon.start()
        yield daemon


def connect(daemon, cgroup: Path, port: int = 1, address: str = "127.0.0.1") -> int:
    """Connect from inside *cgroup*; return the errno, 0 for success."""
    found = daemon.run(cgroup, sys.executable, "-c", CONNECT, address, str(port))
    assert not found.stderr, found.stderr
    return found.returncode


def test_who_is_born_in_a_scope_is_born_under_its_default(ground):
    """A cgroup that no policy names may do nothing, from its first instruction on."""
    with ground.sandbox("nobody") as cgroup:
        code = connect(ground, cgroup)
        found = ground.wait_for_sandbox(cgroup)

    assert code == EPERM
    assert (found["policy"], found["mode"], found["admission"]) == ("deny-all", "enforce", "found")


def test_a_path_chooses_the_policy(ground):
    """``match`` with a cgroup glob; the policy decides as soon as the sandbox is bound."""
    with ground.sandbox("web-1") as cgroup:
        found = ground.wait_for_sandbox(cgroup)
        code = connect(ground, cgroup)

    assert found["policy"] == "web"
    assert code == ECONNREFUSED


def test_a_denial_is_told_at_once_and_by_episode(ground):
    """What was denied belongs to the labels of its time, and to no other episode."""
    with ground.sandbox("told") as cgroup, ground.client() as client:
        name = ground.wait_for_sandbox(cgroup)["id"]
        client.label(name, episode="17", step="3")
        connect(ground, cgroup, 443, "203.0.113.7")
        client.label(name, episode="18", step="0")
        in_17 = client.denials(name, episode="17")
        in_18 = client.denials(name, episode="18")
        (event,) = [
            each
            for each in ground.events("flow")
            if each["sandbox"]["id"] == name and each["verdict"] == "deny"
        ]

    assert bool(in_17)
    assert not in_18
    assert in_17.denials[0]["remote"] == "203.0.113.7 port 443"
    assert event["sandbox"]["labels"] == {"episode": "17", "step": "3"}
    assert event["sandbox"]["policy"]["name"] == "deny-all"


def test_labels_give_a_pooled_sandbox_its_policy(ground):
    """A sandbox that is claimed after it was made gets the policy of its labels."""
    with ground.sandbox("pooled") as cgroup, ground.client() as client:
        name = ground.wait_for_sandbox(cgroup)["id"]
        before = connect(ground, cgroup)
        client.label(name, role="web")
        after = connect(ground, cgroup)

    assert (before, after) == (EPERM, ECONNREFUSED)


def test_phases_switch_what_open_flows_may(ground):
    """The first phase holds first; the switch is an event, and live flows are judged again."""
    with (
        ground.sandbox("rl-1") as cgroup,
        ground.client() as client,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        name = ground.wait_for_sandbox(cgroup)["id"]
        phase = client.sandbox(name)["phase"]
        port = server.getsockname()[1]
        script = (
            f"import socket, sys; s = socket.create_connection(('127.0.0.1', {port}))\n"
            "for line in sys.stdin:\n"
            "    try: s.send(b'x')\n"
            "    except OSError: pass  # a late ACK was refused, and the flow ended for it\n"
            "    print('sent', flush=True)\n"
        )
        peer = subprocess.Popen(
            in_cgroup(cgroup, sys.executable, "-c", script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        conversation, _ = server.accept()
        conversation.settimeout(60)
        say(peer)
        before = conversation.recv(1)
        client.phase(name, "agent")
        say(peer)
        conversation.settimeout(0.7)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            assert conversation.recv(1) == b""
        peer.kill()
        with peer:
            conversation.close()
        again = connect(ground, cgroup, port)
        states = [
            each["detail"]
            for each in ground.events("state")
            if each["sandbox"]["id"] == name and each["state"] == "rules-applied"
        ]

    assert (phase, before, again) == ("setup", b"x", EPERM)
    assert [each.get("phase") for each in states] == ["setup", "agent"]


def say(peer) -> None:
    """Have a peer send one byte, and wait until its system call has returned."""
    peer.stdin.write("go\n")
    peer.stdin.flush()
    assert peer.stdout.readline() == "sent\n"


def test_a_phase_that_the_policy_lacks_is_refused(ground):
    """The answer names those there are, and nothing changes."""
    with ground.sandbox("rl-2") as cgroup, ground.client() as client:
        name = ground.wait_for_sandbox(cgroup)["id"]
        with pytest.raises(Invalid, match="expected one of rl's \\(setup, agent\\), got cleanup"):
            client.phase(name, "cleanup")
        assert client.sandbox(name)["phase"] == "setup"


def test_the_off_switch_ends_by_itself(ground):
    """Audit mode for seconds: what would be denied passes, is recorded, and then is denied."""
    with ground.sandbox("off") as cgroup, ground.client() as client:
        name = ground.wait_for_sandbox(cgroup)["id"]
        client.mode(name, "audit", for_s=600.0, reason="an incident at night")
        shown = client.sandbox(name)
        during = connect(ground, cgroup)
        # However long that took, it ends a second from now.
        client.mode(name, "audit", for_s=1.0, reason="it is over soon")
        time.sleep(1.1)
        after = connect(ground, cgroup)
        wait_until(lambda: not client.sandbox(name)["override"], what="the end of it told")
        told = [
            each["detail"]
            for each in ground.events("state")
            if each["sandbox"]["id"] == name and each["state"] == "mode"
        ]

    assert (shown["mode"], shown["effective_mode"]) == ("enforce", "audit")
    assert shown["override"]["reason"] == "an incident at night"
    assert (during, after) == (ECONNREFUSED, EPERM)
    assert [each["mode"] for each in told] == ["audit", "audit", "enforce"]


def test_a_sandbox_that_ends_is_let_go(ground):
    """Its cgroup gone, nothing of it stays: no pin, no record; its denials can still be asked."""
    with ground.sandbox("brief") as cgroup:
        name = ground.wait_for_sandbox(cgroup)["id"]
        connect(ground, cgroup)
    with ground.client() as client:
        wait_until(
            lambda: not any(each["id"] == name for each in client.sandboxes()), what="its end"
        )
        denials = client.denials(name)
        with pytest.raises(NotFound):
            client.sandbox(name)
    finished = [each for each in ground.events("state") if each["state"] == "finished"]

    assert denials.denied == 1
    assert name in {each["sandbox"]["id"] for each in finished}


def test_a_link_that_is_torn_off_is_put_back(ground):
    """The self-check notices, alarms as critical, and repairs."""
    with ground.sandbox("torn") as cgroup, ground.client() as client:
        name = ground.wait_for_sandbox(cgroup)["id"]
        connect(ground, cgroup)
        torn = [
            path
            for path in (pins.BPFFS / ground.state.name / pins.LINKS).iterdir()
            if path.name.endswith("-aw_connect4")
        ]
        for path in torn:
            # That of a sandbox that has ended may go just now.
            with contextlib.suppress(KernelError):
                link = Link(open_pin(path), "torn")
                link.detach()
                link.close()
        wait_until(lambda: damaged(ground, name), what="the damage told")
        code = connect(ground, cgroup)
        hooks = client.sandbox(name)["hooks"]

    assert code == EPERM
    assert all(each["in_force"] for each in hooks)


def damaged(daemon, name: str) -> bool:
    """Whether the log tells of damage to a sandbox's wall."""
    return any(
        each["state"] == "damaged" and each["sandbox"]["id"] == name
        for each in daemon.events("state")
    )


def test_reload_says_what_is_different(ground):
    """A changed policy is applied; a broken one keeps what was in force, and says where."""
    path = ground.policies / "web.yaml"
    before = path.read_text()
    with ground.sandbox("web-reload") as cgroup:
        ground.wait_for_sandbox(cgroup)
        told = len(ground.events("state"))
        path.write_text(before.replace("ports: [any]", "ports: [2]"))
        applied = ground.reload()
        changes = [each["detail"].get("what", "") for each in ground.events("state")[told:]]
        refused = connect(ground, cgroup, 1)
        path.write_text(before.replace("ports: [any]", "ports: [70000]"))
        kept = ground.reload()
        still = connect(ground, cgroup, 2)
        path.write_text(before)
        ground.reload()

    assert applied["applied"]
    # By this reload, or by the daemon's own if that was first.
    assert any("changed web" in each for each in changes)
    assert refused == EPERM
    assert not kept["applied"]
    assert "web.yaml:3:" in kept["problems"][0]
    assert "expected 1-65535" in kept["problems"][0]
    assert still == ECONNREFUSED


def test_a_changed_file_is_noticed(ground):
    """Nobody needs to ask."""
    ground.policy("new", "allow: []\n")
    with ground.client() as client:
        wait_until(
            lambda: "new" in {each["name"] for each in client.status()["policies"]}, what="it read"
        )


def test_status_tells_what_stands(ground):
    """Scopes, hooks and policies."""
    with ground.client() as client:
        status = client.status()

    assert status["schema"] == "agentwall.status/1"
    assert [(each["kind"], each["in_force"]) for each in status["scopes"]] == [("owned", True)]
    assert all(each["in_force"] for each in status["hooks"] if each["required"])


def test_a_request_from_inside_is_refused_and_told(ground):
    """Root in a sandbox is no root here."""
    script = (
        "import sys; from agentwall.client import Client\n"
        "from agentwall.errors import ControlError\n"
        f"client = Client({str(ground.socket)!r})\n"
        "try: client.label('web', x='1')\n"
        "except ControlError as err: print(err.code.value)\n"
    )
    with ground.sandbox("sly") as cgroup:
        ground.wait_for_sandbox(cgroup)
        said = ground.run(cgroup, sys.executable, "-c", script)
    refused = [each for each in ground.events("state") if each["state"] == "request-refused"]

    assert said.stdout == "not-permitted\n", said.stderr
    assert "sandbox-label" in refused[-1]["detail"]["what"]


def test_two_daemons_do_not_fight(ground):
    """The second one says that another is running, and changes nothing."""
    command = [sys.executable, "-m", "agentwall", "daemon", "--config", str(ground.config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert second.returncode == 77
    assert "another daemon is running" in second.stderr
    with ground.client() as client:
        assert client.status()["pid"] == ground.process.pid


def test_bad_labels_change_nothing(ground):
    """Ten thousand characters are refused in one clear line."""
    with ground.sandbox("labels") as cgroup, ground.client() as client:
        name = ground.wait_for_sandbox(cgroup)["id"]
        with pytest.raises(ControlError, match="expected at most 1024 characters, got 10000"):
            client.label(name, episode="x" * 10_000)
        assert client.sandbox(name)["labels"] == {}


def test_what_was_known_is_known_to_the_next_daemon(ground):
    """Labels, phase and override outlive the daemon; nothing was let through meanwhile."""
    with ground.sandbox("rl-3") as cgroup:
        with ground.client() as client:
            name = ground.wait_for_sandbox(cgroup)["id"]
            client.label(name, episode="9")
            client.phase(name, "agent")
            client.mode(name, "audit", for_s=600.0, reason="a look")
        assert ground.stop() == 0
        during = connect(ground, cgroup)
        ground.start()
        with ground.client() as client:
            found = client.sandbox(name)
            client.end_mode(name, reason="seen")
        after = connect(ground, cgroup)

    assert during == ECONNREFUSED
    assert (found["labels"], found["phase"]) == ({"episode": "9", "phase": "agent"}, "agent")
    assert found["admission"] == "adopted"
    assert found["override"]["reason"] == "a look"
    assert after == EPERM


def test_a_parent_that_only_holds_containers_is_none(ground):
    """Found empty at a start, it waits: what is made in it later has a policy of its own."""
    inner = ground.scope / "pods" / f"libpod-{'4f' * 32}"
    with ground.sandbox("pods") as parent:
        inner.mkdir()
        ground.wait_for_sandbox(inner)
        ground.run(inner, "true")
        inner.rmdir()
        assert ground.stop() == 0
        ground.start()
        inner.mkdir()
        found = ground.wait_for_sandbox(inner)
        outer = ground.sandbox_at(parent)
        inner.rmdir()
        with subprocess.Popen(in_cgroup(parent, "/bin/sleep", "60")) as child:
            late = ground.wait_for_sandbox(parent)
            child.kill()

    assert found["origin"]["runtime"] == "podman"
    assert outer is None
    assert late["admission"] == "found"


def test_the_log_is_one_chain(ground):
    """Across all daemons of this test module, every line holds the hash of the one before."""
    # A daemon that lives may be in the midst of a line.
    assert ground.stop() == 0
    audit = [sys.executable, "-m", "agentwall", "audit", "--format", "json", "--fail-on", "never"]
    found = subprocess.run(
        [*audit, str(ground.log)], capture_output=True, text=True, timeout=60, check=False
    )
    ground.start()

    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["errors"] == []
