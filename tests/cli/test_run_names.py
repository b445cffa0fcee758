# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` under a policy of names, from the command line to the log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.cli import agentwall, environment
from rig.dns import name_server
from rig.lab import OUTSIDE, PERMITTED, Lab, lab
from rig.listeners import tcp_server
from rig.refusal import skip_without_tcx

pytestmark = pytest.mark.kernel

RESOLVER = "198.51.100.53"
NAMES = {"hub.example.com": PERMITTED, "evil.example.net": OUTSIDE}
POLICY = f"""version: 1
name: hubs
dns: {{servers: [{RESOLVER}], search: [svc.cluster.example, cluster.example]}}
allow:
  - {{host: hub.example.com, ports: [80]}}
"""
REACH = """
import json, socket, sys
told = {}
for name in sys.argv[1:]:
    try:
        with socket.create_connection((name, 80), timeout=60):
            told[name] = "reached"
    except OSError as err:
        told[name] = type(err).__name__ + " " + str(err.errno)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def here() -> Iterator[Lab]:
    with (
        lab() as made,
        name_server(made, RESOLVER, NAMES),
        tcp_server(made.far, PERMITTED, 80),
        tcp_server(made.far, OUTSIDE, 80),
    ):
        yield made


def run(
    made: Lab, directory: Path, *command: str, policy: str = POLICY
) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
    """Run *command* behind *policy* in the near namespace; return it with its events."""
    path, events = directory / "policy.yaml", directory / "events.jsonl"
    path.write_text(policy)
    words = agentwall("run", "-p", path, "--events", events, "--", *command)
    done = subprocess.run(
        made.near.inside(*words),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done, [json.loads(line) for line in events.read_text().splitlines()]


def test_names(here: Lab, tmp_path: Path) -> None:
    """A permitted name is resolved by glibc and reached; another is unknown, and told of."""
    skip_without_tcx()
    names = ["hub.example.com", "evil.example.net"]
    done, events = run(here, tmp_path, sys.executable, "-c", REACH, *names)
    told = json.loads(done.stdout)
    assert told == {"hub.example.com": "reached", "evil.example.net": "gaierror -2"}, done.stderr
    flows = [e for e in events if e["kind"] == "flow"]
    reached = [e for e in flows if e["remote"]["name"] == "hub.example.com"]
    assert {e["verdict"] for e in reached} == {"allow"}
    assert {e["reason"]["rule"] for e in reached} == {"hubs:allow[0]"}
    asked = {e["question"]["name"] for e in flows if e["reason"]["code"] == "question"}
    # What resolv.conf of the run appends was asked for first, or after; nothing of it left.
    assert "evil.example.net" in asked
    assert "DNS question for evil.example.net" in done.stderr


def test_a_new_line_of_resolv_conf(here: Lab, tmp_path: Path) -> None:
    """The command sees the servers and the search list of the policy."""
    done, _ = run(here, tmp_path, "cat", "/etc/resolv.conf")
    lines = done.stdout.splitlines()
    assert f"nameserver {RESOLVER}" in lines
    assert "search svc.cluster.example cluster.example" in lines


def test_observed_names_make_a_policy(here: Lab, tmp_path: Path) -> None:
    """``policy learn`` writes a policy by names from an observed run, and it enforces."""
    observe = f"version: 1\nmode: observe\ndns: {{servers: [{RESOLVER}]}}\n"
    _, events = run(here, tmp_path, sys.executable, "-c", REACH, "hub.example.com", policy=observe)
    assert any(e.get("remote") and e["remote"].get("name") for e in events if e["kind"] == "flow")
    learned = subprocess.run(
        agentwall("policy", "learn", tmp_path / "events.jsonl"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert learned.returncode == 0, learned.stderr
    assert "host: hub.example.com" in learned.stdout
    (tmp_path / "again").mkdir()
    done, _ = run(
        here,
        tmp_path / "again",
        sys.executable,
        "-c",
        REACH,
        "hub.example.com",
        policy=learned.stdout,
    )
    assert json.loads(done.stdout) == {"hub.example.com": "reached"}
