# SPDX-License-Identifier: Apache-2.0
"""Warnings about detections and exceptions: each where it should be, and nowhere else."""

from __future__ import annotations

import pytest

from agentwall.policy.lint import lint_policy
from agentwall.policy.lint_detect import dialect_warnings
from agentwall.policy.load import load_policy

TESTS = "tests: [{to: '1.1.1.1:1', expect: deny}]\n"
GROUPS = ("mining/stratum-v1", "p2p/bitcoin", "tunnel/socks", "tunnel/ssh")


def _load(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\n{text}\n{TESTS}")
    return load_policy(path, search_path=())


def _shown(policy, warnings):
    return [str(warning).removeprefix(f"{policy.files[-1]}:") for warning in warnings]


def _rule(excepts):
    return f"allow: [{{cidr: 1.1.1.1, ports: [22], except: [{excepts}]}}]"


def _read(inspect, section="allow", excepts=""):
    return f"{section}: [{{cidr: 1.1.1.1, ports: [22], inspect: {inspect}, except: [{excepts}]}}]"


UNREAD = "inspect: none: what is said here is not read, in clear or inside TLS, so detect does not"
NOTHING = "nothing is looked for in what is said here anyway"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "detect: {dns_exfil: block}",
            "2:21: detect.dns_exfil: warning: block only alerts in this version: no question is",
        ),
        (
            "detect: {dns_exfil: {response: block}}",
            "2:32: detect.dns_exfil: warning: block only alerts",
        ),
        (
            f"detect: {{tunnel: off}}\n{_rule('tunnel/ssh')}",
            "3:9: p:allow[0]: warning: excepts tunnel/ssh, which is not looked for anyway: detect "
            "says tunnel: off",
        ),
        (
            _rule("tunnel/ssh, tunnel"),
            "2:9: p:allow[0]: warning: excepts tunnel/ssh twice: tunnel holds it",
        ),
        (
            _rule("mining, tunnel, p2p, beacon"),
            "2:9: p:allow[0]: warning: excepts every class: nothing is looked for in what it al",
        ),
        (_read("none"), f"2:9: p:allow[0]: warning: {UNREAD} block mining or tunnel"),
        (_read("none", "inbound"), f"2:11: p:inbound[0]: warning: {UNREAD} block mining or tunnel"),
        (_read("none", excepts="tunnel"), f"2:9: p:allow[0]: warning: {UNREAD} block mining"),
        (
            f"detect: {{mining: alert, tunnel: kill}}\n{_read('none')}",
            f"3:9: p:allow[0]: warning: {UNREAD} block tunnel",
        ),
        *(
            (
                f"detect: {{mining: off, tunnel: off, p2p: off}}\n{_read(inspect)}",
                f"3:9: p:allow[0]: warning: inspect: {inspect}: {NOTHING}",
            )
            for inspect in ("wire", "none")
        ),
        (
            _read("none", excepts="mining, tunnel, p2p"),
            f"2:9: p:allow[0]: warning: inspect: none: {NOTHING}",
        ),
    ],
)
def test_warnings(tmp_path, text, warning):
    """Each kind of doubtful entry gets one warning at its place."""
    policy = _load(tmp_path, text)
    (found,) = _shown(policy, lint_policy(policy))

    assert found.startswith(warning)


@pytest.mark.parametrize(
    "text",
    [
        "detect: {mining: off, dns_exfil: alert}",
        _rule("tunnel/ssh"),
        _read("wire"),
        _read("all"),
        f"detect: {{mining: alert, tunnel: alert}}\n{_read('none')}",
        f"detect: {{mining: off, tunnel: off, p2p: off}}\n{_read('all')}",
    ],
)
def test_no_warnings(tmp_path, text):
    """What is plain is taken as meant."""
    assert lint_policy(_load(tmp_path, text)) == ()


@pytest.mark.parametrize(
    ("excepts", "warnings"),
    [
        ("tunnel/ssh, mining, p2p/bitcoin", []),
        ("tunnel/sshh", ["no signature has the dialect tunnel/sshh; did you mean tunnel/ssh?"]),
        ("mining/ssh", ["no signature has the dialect mining/ssh; did you mean tunnel/ssh?"]),
        ("mining/qqq", ["no signature has the dialect mining/qqq"]),
    ],
)
def test_dialects(tmp_path, excepts, warnings):
    """An exception of a dialect that no signature has is warned about, with what may be meant."""
    policy = _load(tmp_path, _rule(excepts))
    found = _shown(policy, dialect_warnings(policy, GROUPS))

    assert found == [f"2:9: p:allow[0]: warning: {text}" for text in warnings]
