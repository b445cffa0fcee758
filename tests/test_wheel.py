# SPDX-License-Identifier: Apache-2.0
"""The wheel runs on a machine that has neither the tree, nor clang, nor kernel headers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rig.tree import ROOT

from agentwall import __version__

BASE_PYTHON = Path(sys.base_prefix) / "bin" / "python3"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from this tree."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A new virtual environment with the wheel and what it requires, nothing else."""
    if os.environ.get("AGENTWALL_NO_INSTALL") == "1":
        pytest.skip("AGENTWALL_NO_INSTALL=1: would install the wheel and what it requires")
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([BASE_PYTHON, "-m", "venv", str(home)], check=True)
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return home


def run_installed(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # The environment's own bin is the whole PATH: no clang, no bpftool, no tree.
    environment = {"PATH": str(home / "bin"), "HOME": str(home)}
    return subprocess.run(
        [home / "bin" / "agentwall", *args],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_contents(wheel):
    """It carries the BPF object as built, what bcc compiles, the policies and the licences."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        carried = archive.read("agentwall/_bpf/agentwall.bpf.o")
        probes = archive.read("agentwall/_bpf/probes/tls.c")

    policies = [path.relative_to(ROOT / "policies") for path in (ROOT / "policies").rglob("*.yaml")]
    assert carried == (ROOT / "agentwall/_bpf/agentwall.bpf.o").read_bytes()
    assert probes == (ROOT / "bpf/probes/tls.c").read_bytes()
    headers = [path.relative_to(ROOT / "bpf") for path in (ROOT / "bpf/probes").rglob("*.h")]
    assert {"agentwall/_bpf/probes/plain.h", "agentwall/probes/compile_child.py"} <= names
    assert {f"agentwall/_bpf/{path}" for path in headers} <= names
    assert policies
    assert {f"agentwall/_policies/{path}" for path in policies} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {
        "agentwall",
        f"agentwall-{__version__}.dist-info",
    }


def test_installed_command(installed):
    """The console script starts and says its version."""
    done = run_installed(installed, "--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"agentwall {__version__}\n", "")


def test_installed_policies(installed):
    """Every policy that the wheel ships is valid there."""
    (shipped,) = installed.glob("lib/python3*/site-packages/agentwall/_policies")
    policies = sorted(map(str, shipped.rglob("*.yaml")))
    done = run_installed(installed, "policy", "check", *policies)

    assert policies
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path for path in policies if path not in done.stdout] == []


def test_installed_signatures(installed):
    """The shipped signatures are found there, and each holds to its examples."""
    listed = run_installed(installed, "signature", "ls", "--format", "json")
    tested = run_installed(installed, "signature", "test")

    assert listed.returncode == 0, listed.stderr
    found = json.loads(listed.stdout)["signatures"]
    assert {"mining", "tunnel", "p2p"} == {each["class"] for each in found}
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_installed_refuses_a_bad_policy(installed, tmp_path):
    """An invalid policy ends with 2 and its position there, too."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nname: bad\nallow:\n  - cidr: 10.0.0.1/8\n    ports: [443]\n")
    done = run_installed(installed, "policy", "check", str(bad))

    assert done.returncode == 2
    assert f"{bad}:4:" in done.stderr
    assert "Traceback" not in done.stderr
