# SPDX-License-Identifier: Apache-2.0
"""Errors say where and what, and keep what a developer needs."""

from __future__ import annotations

import errno

import pytest

from agentwall.errors import (
    AgentwallError,
    ControlCode,
    ControlError,
    KernelError,
    PolicyError,
    SourceLocation,
    UnsupportedFeatureError,
    VerifierError,
)

HERE = SourceLocation("policies/train.yaml", 12, 5)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("allow[0].ports[1]", "policies/train.yaml:12:5: allow[0].ports[1]: expected 1-65535"),
        ("", "policies/train.yaml:12:5: expected 1-65535"),
    ],
)
def test_policy_error_names_place_and_key(key, text):
    """A policy error reads path:line:column, key where there is one, and the problem."""
    assert str(PolicyError(HERE, key, "expected 1-65535")) == text


def test_kernel_error_reads_as_its_message():
    """A kernel error carries errno for code and reads as what failed, without the number."""
    error = UnsupportedFeatureError(errno.ENOTSUP, "attach cgroup/connect4: needs cgroup v2")

    assert error.errno == errno.ENOTSUP
    assert str(error) == "attach cgroup/connect4: needs cgroup v2"


def test_verifier_error_keeps_the_log():
    """The message is one line; the whole log stays at hand."""
    error = VerifierError(errno.EACCES, "load aw_connect4: R1 invalid mem access", "0: r1\n1: r2\n")

    assert error.log == "0: r1\n1: r2\n"
    assert str(error) == "load aw_connect4: R1 invalid mem access"


def test_both_families_share_the_base():
    """Whoever catches AgentwallError catches them all, and OSError catches the kernel's."""
    assert issubclass(VerifierError, AgentwallError)
    assert issubclass(VerifierError, OSError)
    assert issubclass(KernelError, AgentwallError)
    assert issubclass(PolicyError, ValueError)


def test_control_error_has_a_code():
    """What the daemon refuses reads as its reason, and carries the code of the protocol."""
    error = ControlError(ControlCode.NOT_FOUND, "no such sandbox: x")

    assert (str(error), error.code.value) == ("no such sandbox: x", "not-found")
