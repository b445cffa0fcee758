# SPDX-License-Identifier: Apache-2.0
"""A daemon's log: a container's day, under a policy file that is really there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import HOST, FlowRecord, PolicyInForce, Record, StateRecord
from agentwall.flow.verdict import Reason, ReasonCode
from agentwall.sinks.rotating import RotatingLog
from rig.records import SANDBOX, detection, process, rome_day, state

RUN = "d20261129T200529Z-abc123"
COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"
CONTAINER = "3f2ab1c9" * 8
DAEMON = replace(state("started", {"adopted": 0}), sandbox=HOST)
WEB = replace(
    SANDBOX,
    id="docker-3f2ab1c9",
    cgroup=f"/system.slice/docker-{CONTAINER}.scope",
    labels={"run": "r9", "episode": "41", "step": "7", "team": "x\x1b[31m"},
    origin=Origin(runtime=Runtime.DOCKER, container=CONTAINER, name="web", image="python:3.11"),
    policy=PolicyInForce(name="rl-rollout", phase="agent", commit=COMMIT),
)
POLICY = """version: 1
name: rl-rollout
allow:
  - cidr: 198.51.100.0/24
    ports: [443]
deny:
  - cidr: 10.20.0.9            # the orchestrator
"""


def web_day(policy: Path) -> list[Record]:
    """Return the day's records, denied by line 7 of *policy*, which is written."""
    policy.write_text(POLICY, encoding="ascii")
    digest = hashlib.sha256(policy.read_bytes()).hexdigest()
    reason = Reason(code=ReasonCode.RULE, rule="rl-rollout:deny[0]", file=str(policy), line=7)
    found: list[Record] = [DAEMON]
    for record in rome_day():
        moved = replace(record, sandbox=WEB)
        if isinstance(moved, StateRecord) and moved.state == "rules-applied":
            detail = {"files": [str(policy)], "digest": digest, "phase": "agent"}
            moved = replace(moved, detail={**moved.detail, **detail, "commit": COMMIT})
        if isinstance(moved, FlowRecord) and moved.reason.rule == "rl-rollout:deny[0]":
            moved = replace(moved, reason=reason)
        found.append(moved)
    mined = replace(detection(), sandbox=WEB, process=process("ssh", 5100))
    return [*found, replace(mined, time_ns=found[-1].time_ns, count=3)]


def write_daemon_log(directory: Path, max_bytes: int = 20_000) -> Path:
    """Write the day to rotated files in *directory*; return the path of the newest."""
    path = directory / "events.jsonl"
    log = RotatingLog(path, RUN, max_bytes=max_bytes, keep=20)
    for record in web_day(directory / "rl-rollout.yaml"):
        log.write(record)
    log.close()
    return path
