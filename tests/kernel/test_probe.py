# SPDX-License-Identifier: Apache-2.0
"""Probes try what they are asked about and leave nothing behind."""

import errno
import os
import re
import struct

import pytest
from rig import temp_cgroup
from rig.descriptors import descriptors
from rig.tree import ROOT

from agentwall.errors import KernelError
from agentwall.kernel import probe
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.libbpf import AttachType, MapType, ProgramType
from agentwall.kernel.links import effective_programs

pytestmark = pytest.mark.kernel

NO_SUCH_HELPER = 100_000


def test_hook_is_taken_off_again():
    """After a hook was tried the cgroup has the programs it had before."""
    with temp_cgroup() as cgroup, attachable(cgroup) as fd:
        before = effective_programs(fd, AttachType.CONNECT6)
        probe.try_cgroup_hook(ProgramType.CGROUP_SOCK_ADDR, AttachType.CONNECT6, fd)

        assert effective_programs(fd, AttachType.CONNECT6) == before


def test_wrong_pair():
    """A program type that does not go with a hook is refused, with both named."""
    with (
        pytest.raises(KernelError, match="load cgroup_sock for connect4: invalid argument"),
        probe.loaded(ProgramType.CGROUP_SOCK, AttachType.CONNECT4),
    ):
        pytest.fail("loaded")


def test_refused_program():
    """A program that the verifier refuses is an error: it does not end."""
    spin = struct.pack("=BBhi", 0x05, 0, -1, 0)
    with (
        pytest.raises(KernelError, match="load cgroup_skb for inet_egress"),
        probe.loaded(ProgramType.CGROUP_SKB, AttachType.INET_EGRESS, instructions=spin),
    ):
        pytest.fail("loaded")


def test_a_probes_program_leaves_nothing():
    """It is loaded with the map that leads on, and both go."""
    before = descriptors()
    with probe.probe_program() as fd:
        kind = os.readlink(f"/proc/self/fd/{fd}")

    assert kind == "anon_inode:bpf-prog"
    assert descriptors() <= before


def test_what_probes_lack_is_named(monkeypatch):
    """A function that this kernel does not have, or not for probes."""
    monkeypatch.setitem(probe._CALLED_BY_PROBES, "bpf_nothing_of_the_kind", NO_SUCH_HELPER)
    with (
        pytest.raises(KernelError, match="expected bpf_nothing_of_the_kind for probes") as caught,
        probe.probe_program(),
    ):
        pytest.fail("loaded")

    assert caught.value.errno == errno.EOPNOTSUPP


def test_what_probes_call_is_what_is_tried():
    """Every function of the kernel's that the source names, and by number, is asked for."""
    source = (ROOT / "bpf/probes/tls.c").read_text()
    named = set(re.findall(r"\b(bpf_\w+)\(", source)) - {"bpf_get_attach_cookie"}
    if "BPF_TASK_STORAGE(" in source:
        named.add("bpf_task_storage_get")

    assert named == set(probe._CALLED_BY_PROBES)


def test_helpers():
    """A helper that exists is found, and one that does not is not."""
    assert probe.has_helper(ProgramType.CGROUP_SKB, 1)
    assert not probe.has_helper(ProgramType.CGROUP_SKB, NO_SUCH_HELPER)


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LPM_TRIE, MapType.SK_STORAGE])
def test_map_types(kind):
    """The map types that every supported kernel has are found."""
    assert probe.has_map_type(kind)


def test_batch_update():
    """Hashes have batch updates on every supported kernel."""
    assert probe.has_batch_update(MapType.HASH)


def test_tcx():
    """tcx is answered by the kernel: it missed the interface, or it does not know tcx."""
    with pytest.raises(KernelError) as caught:
        probe.try_tcx()

    assert caught.value.errno in (errno.ENODEV, errno.EINVAL)


def test_lsm_hook_that_does_not_exist():
    """An LSM hook that does not exist is named in the error."""
    with pytest.raises(KernelError, match="find LSM hook nothing_of_the_kind"):
        probe.try_lsm("nothing_of_the_kind")
