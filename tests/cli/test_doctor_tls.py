# SPDX-License-Identifier: Apache-2.0
"""What doctor says of reading inside TLS: found out by trying, never a failure."""

from __future__ import annotations

import json

import pytest
from rig.descriptors import descriptors

from agentwall.cli import doctor_tls
from agentwall.cli.doctor_tls import inside_tls
from agentwall.cli.main import main
from agentwall.errors import KernelError
from agentwall.host import kept_files
from agentwall.kernel import probe
from agentwall.kernel.features import Group, State
from agentwall.probes import compiling, mapped, uprobes
from agentwall.probes.code import Code

NAMES = [
    *("inside TLS: bcc", "inside TLS: uprobes"),
    *("inside TLS: probes", "inside TLS: mappings"),
]
CHECKS = (
    *((compiling, "why_not"), (uprobes, "why_not")),
    *((doctor_tls, "probes_why_not"), (mapped, "why_not")),
)


@pytest.fixture(autouse=True)
def _nothing_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_files, "SYSTEM_CACHE", tmp_path / "cache")


@pytest.mark.kernel
def test_this_host():
    """Each row says what the attempt came to, and nothing else decides."""
    found = list(inside_tls(is_able=True))
    refused = [getattr(*check)() for check in CHECKS]

    assert [each.name for each in found] == NAMES
    for feature, why in zip(found, refused, strict=True):
        assert (feature.state is State.SUPPORTED) == (why is None)
        assert why is None or feature.detail.endswith(f": {why}")
        assert bool(feature.remedy) == (why is not None)


@pytest.mark.parametrize("broken", range(len(CHECKS)))
def test_what_is_missing_is_a_note(monkeypatch, broken):
    """Nothing of it is required; what is lost is said, and what would help."""
    for number, (module, name) in enumerate(CHECKS):
        why = "it is not there" if number == broken else None
        monkeypatch.setattr(module, name, lambda why=why: why)
    found = list(inside_tls(is_able=True))
    lacking = found.pop(broken)

    assert lacking.state is State.MISSING
    assert not lacking.required
    assert lacking.detail.endswith(": it is not there")
    assert ("is not read" in lacking.detail) == (broken < 3)
    assert {each.state for each in found} == {State.SUPPORTED}
    assert {each.group for each in (*found, lacking)} == {Group.HOST}


@pytest.mark.kernel
def test_a_probe_that_is_refused(monkeypatch):
    """At its program, which needs what the kernel lacks, or where it is attached; nothing stays."""

    def refuse(*_: object, **__: object) -> None:
        raise KernelError(1, "probe: attach: not permitted")

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setitem(probe._CALLED_BY_PROBES, "bpf_no_such_thing", 100_000)
        of_program = doctor_tls.probes_why_not()
    with monkeypatch.context() as patch:
        patch.setattr(uprobes, "attach", refuse)
        of_attaching = doctor_tls.probes_why_not()

    assert of_program == "expected bpf_no_such_thing for probes in this kernel, got none"
    assert of_attaching == "probe: attach: not permitted"
    assert descriptors() <= before


def test_the_package_is_named(monkeypatch):
    """Who lacks bcc is told what to install."""
    monkeypatch.setattr(compiling, "why_not", lambda: "no bcc")
    lacking = next(inside_tls(is_able=False))

    assert "python3-bpfcc" in lacking.remedy


@pytest.mark.parametrize(
    ("why", "state", "expected"),
    [
        (
            None,
            State.SUPPORTED,
            "there: probes can be compiled, and those that bcc 0.26.0 compiled here are kept",
        ),
        (
            "no bcc",
            State.MISSING,
            "read by what bcc 0.26.0 compiled here, until kernel or agentwall change: no bcc",
        ),
    ],
)
def test_what_was_compiled_is_kept(monkeypatch, why, state, expected):
    """That is said beside whether bcc is there."""
    code = Code(programs={}, maps=(), has_cookies=True, bcc="0.26.0", seconds=0.5, peak_kib=120_000)
    monkeypatch.setattr(doctor_tls, "kept_code", lambda: code)
    monkeypatch.setattr(compiling, "why_not", lambda: why)
    row = next(inside_tls(is_able=True))

    assert (row.state, row.detail) == (state, expected)
    assert bool(row.remedy) == (why is not None)


def test_without_rights():
    """Only what needs no rights is tried."""
    found = list(inside_tls(is_able=False))

    assert [each.state for each in found[1:]] == [State.UNKNOWN] * 3
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
