# SPDX-License-Identifier: Apache-2.0
"""What doctor says of reading inside TLS: found out by trying, never a failure."""

from __future__ import annotations

import json

import pytest

from agentwall.cli import doctor_tls
from agentwall.cli.doctor_tls import inside_tls
from agentwall.cli.main import main
from agentwall.kernel.features import Group, State
from agentwall.probes import compiling, mapped, uprobes

NAMES = ["inside TLS: bcc", "inside TLS: uprobes", "inside TLS: mappings"]
CHECKS = (compiling, uprobes, mapped)


@pytest.mark.kernel
def test_this_host():
    """Each row says what the attempt came to, and nothing else decides."""
    found = list(inside_tls(is_able=True))
    refused = [each.why_not() for each in CHECKS]

    assert [each.name for each in found] == NAMES
    for feature, why in zip(found, refused, strict=True):
        assert (feature.state is State.SUPPORTED) == (why is None)
        assert why is None or feature.detail.endswith(f": {why}")
        assert bool(feature.remedy) == (why is not None)


@pytest.mark.parametrize("broken", range(3))
def test_what_is_missing_is_a_note(monkeypatch, broken):
    """Nothing of it is required; what is lost is said, and what would help."""
    for number, module in enumerate(CHECKS):
        why = "it is not there" if number == broken else None
        monkeypatch.setattr(module, "why_not", lambda why=why: why)
    found = list(inside_tls(is_able=True))
    lacking = found.pop(broken)

    assert lacking.state is State.MISSING
    assert not lacking.required
    assert lacking.detail.endswith(": it is not there")
    assert ("is not read" in lacking.detail) == (broken < 2)
    assert {each.state for each in found} == {State.SUPPORTED}
    assert {each.group for each in (*found, lacking)} == {Group.HOST}


def test_the_package_is_named(monkeypatch):
    """Who lacks bcc is told what to install."""
    monkeypatch.setattr(compiling, "why_not", lambda: "no bcc")
    lacking = next(inside_tls(is_able=False))

    assert "python3-bpfcc" in lacking.remedy


def test_without_rights():
    """Only what needs no rights is tried."""
    found = list(inside_tls(is_able=False))

    assert [each.state for each in found[1:]] == [State.UNKNOWN] * 2
    assert {each.detail for each in found[1:]} == {"not tried: needs root"}


@pytest.mark.kernel
def test_doctor_has_the_rows(capsys, monkeypatch):
    """They are among this host's, and without bcc the exit code is what it was."""
    monkeypatch.setattr(doctor_tls.compiling, "why_not", lambda: "no bcc")
    code = main(["doctor", "--format", "json"])
    features = {each["name"]: each for each in json.loads(capsys.readouterr().out)["features"]}

    assert code == 0
    assert features.keys() >= set(NAMES)
    assert features[NAMES[0]]["state"] == "missing"
