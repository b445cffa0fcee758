# SPDX-License-Identifier: Apache-2.0
"""The BPF object in the tree is what its sources give, whoever builds it wherever."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from rig.tree import ROOT

OBJECT = ROOT / "agentwall/_bpf/agentwall.bpf.o"


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory) -> bytes:
    """The object, built from a copy of the sources in another place."""
    tree = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "bpf", tree / "bpf")
    subprocess.run(["make", "-s", "-C", tree / "bpf"], check=True)
    return (tree / "agentwall/_bpf/agentwall.bpf.o").read_bytes()


def test_object_is_reproducible(rebuilt):
    """Building in another directory gives the same bytes: none of them tells where it was built."""
    assert rebuilt == OBJECT.read_bytes()


def test_object_keeps_what_the_kernel_reads():
    """Types and line information stay, so that verifier logs name the source; DWARF goes."""
    listing = subprocess.run(
        ["llvm-readelf", "-S", OBJECT], check=True, capture_output=True, text=True
    ).stdout

    assert " .BTF " in listing
    assert " .BTF.ext " in listing
    assert ".debug_" not in listing
