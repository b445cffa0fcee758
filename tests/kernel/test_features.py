# SPDX-License-Identifier: Apache-2.0
"""The survey says what is there, what is missing and what could not be tried."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rig import cgroup_root

from agentwall.errors import UnsupportedFeatureError
from agentwall.kernel import features, libbpf
from agentwall.kernel.cgroup2 import own_cgroup
from agentwall.kernel.features import HOOKS, Group, State
from agentwall.kernel.libbpf import AttachType

ROOT = Path(__file__).parents[2]
PRINT_SURVEY = """
from agentwall.kernel.features import survey

for feature in survey():
    print(feature.group.value, feature.name, feature.state.value, feature.detail, sep="|")
"""


def survey_under(*wrapper: str) -> dict[str, list[str]]:
    """Run the survey in a child under *wrapper*; return its fields by feature."""
    command = [*wrapper, sys.executable, "-c", PRINT_SURVEY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [line.split("|", 3) for line in done.stdout.splitlines()]
    return {name: [group, state, detail] for group, name, state, detail in rows}


@pytest.mark.kernel
def test_this_host():
    """On a host that runs these tests, everything that is required is there."""
    found = features.survey()

    assert [f for f in found if f.required and f.state is not State.SUPPORTED] == []
    assert len({(f.group, f.name) for f in found}) == len(found)


@pytest.mark.kernel
def test_nothing_is_left_behind():
    """The cgroup in which hooks are tried is gone afterwards."""
    features.survey()

    assert list(own_cgroup().glob(f"agentwall-probe-{os.getpid()}-*")) == []


@pytest.mark.kernel
def test_every_hook_is_tried():
    """The survey has a line for every program of the object."""
    names = {f.name for f in features.survey() if f.group is Group.HOOK}

    assert {hook.attach_type.name.lower() for hook in HOOKS} < names


@pytest.mark.kernel
def test_without_capabilities():
    """Without the capabilities nothing is tried, and the remedy is to be root."""
    drop = ("setpriv", "--bounding-set=-net_admin,-bpf", "--inh-caps=-all")
    found = survey_under(*drop)

    assert found["capabilities"] == ["host", "missing", "lacking NET_ADMIN, BPF"]
    assert found["connect4"] == ["hook", "unknown", "not tried: capabilities"]
    assert found["map hash"] == ["kernel", "unknown", "not tried: capabilities"]


@pytest.mark.kernel
def test_without_cgroup_v2():
    """Where cgroup v2 is not mounted, that is what is said to be missing."""
    hide = 'umount -a -l -t cgroup2 && exec "$@"'
    found = survey_under("unshare", "-m", "--propagation", "private", "sh", "-c", hide, "sh")

    assert found["cgroup v2"][1:] == [
        "missing",
        "cgroup v2: not mounted; boot with it, or: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
    ]
    assert found["connect4"][1:] == ["unknown", "not tried: cgroup v2"]


@pytest.mark.kernel
def test_read_only_cgroup():
    """Where no cgroup can be made the hooks are not tried, and the reason is given."""
    script = f'mount -o remount,bind,ro {cgroup_root()} && exec "$@"'
    found = survey_under("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh")

    assert found["connect4"][1] == "unknown"
    assert "make a cgroup: read-only file system" in found["connect4"][2]


def test_without_libbpf(monkeypatch):
    """Without the library it is the first thing named, with the package to install."""

    def absent():
        raise UnsupportedFeatureError(2, "libbpf.so.1: not found")

    monkeypatch.setattr(libbpf, "library", absent)
    first, *rest = features.survey()

    assert (first.name, first.state) == ("libbpf", State.MISSING)
    assert "libbpf1" in first.remedy
    assert {f.state for f in rest if f.group is Group.HOOK} == {State.UNKNOWN}


@pytest.mark.kernel
def test_why_not():
    """A hook that exists has no reason against it; one that no kernel has gets the kernel's."""
    connect4 = HOOKS[0]
    odd = features.HookSpec(
        program="odd",
        program_type=connect4.program_type,
        attach_type=AttachType.LSM_CGROUP,
        required=False,
        purpose="none",
    )

    assert features.why_not(connect4) is None
    assert features.why_not(odd) == "load cgroup_sock_addr for lsm_cgroup: invalid argument"
