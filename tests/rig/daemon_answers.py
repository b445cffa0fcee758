# SPDX-License-Identifier: Apache-2.0
"""What a daemon answers, as the control protocol describes it: for whatever shows it."""

from __future__ import annotations

from typing import Any

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_COMMIT = "4f2d9c1e8ab0c6d1aa51c7a0f9b4d5e6f7a8b9c0"
_HOOKS = ("connect4", "connect6", "sendmsg4", "sendmsg6", "sock_create", "egress", "ingress")


def status(**change: Any) -> dict[str, Any]:
    """Return the state of a daemon with 12 sandboxes and no problems, *change* apart."""
    return {
        "schema": "agentwall.status/1",
        "version": "0.5.0",
        "pid": 1234,
        "started": "2026-11-29T08:00:00.000000000Z",
        "uptime_s": 11_100.5,
        "kernel": "6.18.2",
        "object_digest": _DIGEST,
        "mode_overrides": 1,
        "policies": [
            {
                "name": "rl-rollout",
                "file": "/etc/agentwall/policies/rl-rollout.yaml",
                "digest": _DIGEST,
                "commit": _COMMIT,
                "phases": ["setup", "agent"],
                "sandboxes": 10,
                "mode": "enforce",
            },
            {
                "name": "default-deny",
                "file": "/usr/share/agentwall/policies/default-deny.yaml",
                "digest": _DIGEST[::-1],
                "commit": None,
                "phases": [],
                "sandboxes": 2,
                "mode": "enforce",
            },
        ],
        "scopes": [
            {
                "cgroup": "/agentwall.slice",
                "kind": "owned",
                "default": "default-deny",
                "in_force": True,
                "problem": None,
                "sandboxes": 9,
                "unbound": 0,
            },
            {
                "cgroup": "/system.slice",
                "kind": "shared",
                "default": None,
                "in_force": True,
                "problem": None,
                "sandboxes": 3,
                "unbound": 2,
            },
        ],
        "sandboxes": {
            "total": 12,
            "enforce": 11,
            "audit": 1,
            "observe": 0,
            "full": 10,
            "partial": 2,
            "none": 0,
            "unwatched": 1,
        },
        "hooks": [
            *(
                {"name": name, "required": True, "in_force": True, "reason": None}
                for name in _HOOKS
            ),
            {
                "name": "connect_unix",
                "required": False,
                "in_force": False,
                "reason": "not supported (needs Linux 6.7)",
            },
        ],
        "lost": {"denials": 0},
        "denied": 4711,
        "would_denied": 12,
        "log": {
            "path": "/var/log/agentwall/events.jsonl",
            "written": 81_234,
            "failed": 0,
            "rotated": 2,
        },
        "checks": {"last": "2026-11-29T11:04:58.000000000Z", "problems": []},
        "reload": {
            "time": "2026-11-29T10:00:00.000000000Z",
            "applied": True,
            "what": "1 policy changed: rl-rollout",
            "problems": [],
        },
        "signatures": {"count": 61, "digest": _DIGEST},
        "tls": {
            "state": "on",
            "reason": None,
            "bcc": "0.26.0",
            "libraries": [{"library": "openssl", "path": "/usr/lib/libssl.so.3"}],
            "max_libraries": 64,
            "over_limit": 0,
            "displaced": 0,
            "lost": 0,
            "processes": {"read": 12, "unread": {"go": 1}, "unread_speakers": 1},
        },
        **change,
    }


def broken_status() -> dict[str, Any]:
    """Return the state of a daemon with every kind of problem."""
    whole = status()
    whole["hooks"][5] = {
        "name": "egress",
        "required": True,
        "in_force": False,
        "reason": "detached by another",
    }
    whole["scopes"][0] |= {"in_force": False, "problem": "cgroup /agentwall.slice: gone"}
    whole["scopes"][1] |= {"problem": "kube-system is in it\x1b[2J"}
    return whole | {
        "lost": {"denials": 17, "flows": 0},
        "log": whole["log"] | {"failed": 3},
        "checks": {"last": None, "problems": ["aaaa11112222: 2 links were gone; repaired"]},
        "reload": {
            "time": "2026-11-29T10:00:00.000000000Z",
            "applied": False,
            "what": "the edition of 09:00 stays",
            "problems": ["p.yaml:3:1: allow: expected a list"],
        },
        "commit_problem": "no git there",
        "tls": whole["tls"] | {"over_limit": 1},
    }


def sandbox(number: int = 1, **change: Any) -> dict[str, Any]:
    """Return a sandbox; *number* makes its id."""
    container = f"{number:04x}c0ffee{'0' * 54}"
    return {
        "id": container[:12],
        "cgroup": f"/agentwall.slice/docker-{container}.scope",
        "origin": {
            "runtime": "docker",
            "container": container,
            "name": f"rollout-{number}",
            "image": "registry.example/agents:7",
            "pod": None,
            "namespace": None,
            "job": None,
            "step": None,
            "unit": None,
            "labels": {"role": "rollout"},
        },
        "labels": {"run": "grpo-41", "episode": str(number), "step": "3"},
        "policy": "rl-rollout",
        "phase": "agent",
        "commit": _COMMIT,
        "digest": _DIGEST,
        "mode": "enforce",
        "effective_mode": "enforce",
        "override": None,
        "coverage": "full",
        "open_roads": [],
        "admitted": "2026-11-29T11:00:00.000000000Z",
        "admission": "hook",
        "unwatched_ms": 0,
        "pids": 4,
        "denied": 0,
        "would_denied": 0,
        "probes": 0,
        "matches": 0,
        "lost": {},
        "detections": 0,
        "last_denial": None,
        "state": "running",
        **change,
    }


def busy_sandbox() -> dict[str, Any]:
    """Return a sandbox in which much was denied and found, as ``sandbox-show`` does."""
    return sandbox(
        2,
        labels={"run": "grpo-41", "episode": "2", "note\x1b": "a\u202eb" + "x" * 2000},
        effective_mode="audit",
        override={
            "until": "2026-11-29T11:30:00.000000000Z",
            "reason": "vLLM moved; see the runbook",
            "by": "pid 7 (uid 0)",
        },
        coverage="partial",
        open_roads=["the host's network namespace", "CAP_NET_RAW is kept"],
        admission="found",
        unwatched_ms=38,
        denied=4711,
        would_denied=12,
        probes=3,
        matches=1,
        lost={"denials": 5},
        detections=1,
        last_denial="2026-11-29T11:04:58.000000000Z",
        hooks=[{"name": "egress", "in_force": True}, {"name": "connect_unix", "in_force": False}],
        tls={
            "sessions": 5,
            "joined": 3,
            "truncated": 2,
            "processes": [
                {
                    "pid": 78,
                    "comm": "agent\x1b",
                    "exe": "/opt/agent\u202e",
                    "read": False,
                    "unread": "go",
                    "why": "Go binary: it has a TLS of its own",
                    "sessions": 2,
                },
                {
                    "pid": 77,
                    "comm": "python3",
                    "exe": None,
                    "read": True,
                    "library": "openssl",
                    "path": "/usr/lib/libssl.so.3",
                    "sessions": 3,
                },
            ],
        },
        denials={
            "denied": 4711,
            "would_denied": 12,
            "lost": 5,
            "complete": False,
            "denials": [
                {
                    "time": "2026-11-29T11:04:58.000000000Z",
                    "remote": "203.0.113.7 port 3333",
                    "name": "pool.example",
                    "protocol": "tcp",
                    "rule": "rl-rollout:deny[0]",
                    "file": "/etc/agentwall/policies/rl-rollout.yaml",
                    "line": 14,
                    "reason": "rule",
                    "process": "xmr\x1b[31m[77]",
                    "count": 4700,
                },
                {
                    "time": "2026-11-29T11:03:00.000000000Z",
                    "remote": "10.0.0.9 port 22",
                    "name": None,
                    "protocol": "tcp",
                    "rule": None,
                    "file": None,
                    "line": None,
                    "reason": "no-rule",
                    "process": None,
                    "count": 11,
                },
            ],
            "detections": [
                {
                    "time": "2026-11-29T11:04:59.000000000Z",
                    "class": "mining",
                    "dialect": "stratum",
                    "severity": "high",
                    "verdict": "deny",
                    "rule": "rl-rollout:allow[2]",
                }
            ],
        },
    )
