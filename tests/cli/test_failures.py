# SPDX-License-Identifier: Apache-2.0
"""Failures of agentwall read well on stderr and end with the codes the documents promise."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from agentwall.cli import failures
from agentwall.errors import (
    ControlCode,
    ControlError,
    DaemonNotRunningError,
    EventDecodeError,
    HostError,
    KernelError,
    PolicyError,
    SourceLocation,
    UnsupportedFeatureError,
    VerifierError,
)

HERE = SourceLocation("p.yaml", 3, 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PolicyError(HERE, "allow", "expected a list"), 2),
        (HostError("no cgroup v2 mounted"), 77),
        (KernelError(errno.EPERM, "load: not permitted"), 77),
        (UnsupportedFeatureError(errno.ENOTSUP, "ring buffer: not supported"), 77),
        (EventDecodeError("flow event: expected 64 bytes, got 10"), 77),
        (DaemonNotRunningError("/run/x: connection refused: is the daemon running?"), 3),
        (ControlError(ControlCode.NOT_FOUND, "no such sandbox: x"), 2),
        (ControlError(ControlCode.INVALID, "labels.a: expected text"), 2),
        (ControlError(ControlCode.NOT_PERMITTED, "stop: that takes root"), 77),
        (ControlError(ControlCode.FAILED, "cgroup /x: gone"), 77),
        (ControlError(ControlCode.BUSY, "a reload is under way"), 77),
    ],
)
def test_codes(error, code, capsys):
    """Each class has its exit code, and its message is one line marked as agentwall's."""
    assert failures.report(error) == code
    assert capsys.readouterr().err == f"agentwall: {error}\n"


def test_every_policy_error_is_shown(capsys):
    """One look at the output is enough to mend a policy: each error has its line."""
    second = PolicyError(SourceLocation("p.yaml", 9, 2), "deny", "expected a list")
    failures.report(PolicyError(HERE, "allow", "expected a list", others=(second,)))

    assert capsys.readouterr().err.splitlines() == [
        "agentwall: p.yaml:3:1: allow: expected a list",
        "agentwall: p.yaml:9:2: deny: expected a list",
    ]


def test_verifier_log_is_kept(capsys, tmp_path, monkeypatch):
    """The last line names a private file with the verifier's whole log."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failures.report(VerifierError(errno.EACCES, "load aw_connect4: R1 invalid", "0: r1\n1: r2\n"))

    first, last = capsys.readouterr().err.splitlines()
    log = Path(last.removeprefix("agentwall: the verifier's whole log: "))
    assert first == "agentwall: load aw_connect4: R1 invalid"
    assert log.read_text() == "0: r1\n1: r2\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_verifier_log_that_cannot_be_kept(capsys, tmp_path, monkeypatch):
    """Where no file can be written, the message says so and the code stays."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    code = failures.report(VerifierError(errno.EACCES, "load aw_connect4: R1 invalid", "0: r1"))

    assert code == 77
    assert "agentwall: the verifier's log is lost: No such file or directory" in (
        capsys.readouterr().err
    )


def test_message_cannot_steer_the_terminal(capsys):
    """What would move the cursor, start a line or turn the reading direction is escaped."""
    failures.report(HostError("stdin of \x1b[2Jé\u202e\nagentwall: all is well"))

    assert capsys.readouterr().err == (
        "agentwall: stdin of \\x1b[2Jé\\u202e\\x0aagentwall: all is well\n"
    )
