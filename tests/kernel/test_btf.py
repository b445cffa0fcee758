# SPDX-License-Identifier: Apache-2.0
"""What BTF says of the shipped object's maps is what the mirror says, before and after loading."""

from __future__ import annotations

import contextlib

import pytest

from agentwall.errors import KernelError
from agentwall.kernel import abi
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.btf import Btf
from agentwall.kernel.layout import of_ctypes
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.links import pin
from agentwall.kernel.loading import OBJECT_PATH
from agentwall.kernel.objects import BpfObject
from agentwall.kernel.pins import mount_bpffs, unmount_bpffs
from agentwall.kernel.predecessor import open_map

pytestmark = pytest.mark.kernel

MIRRORED = {
    "aw_sandboxes": abi.Sandbox,
    "aw_counters": abi.Counters,
    "aw_flow_table": abi.Flow,
    "aw_intervals": abi.Interval,
}


@pytest.mark.parametrize("name", MIRRORED)
def test_maps_of_the_object(name):
    """Names, offsets and sizes of all members are read from an object that is not loaded."""
    with BpfObject.open(OBJECT_PATH) as bpf:
        found = bpf.definitions()[name]

    assert found.value == of_ctypes(MIRRORED[name])


def test_other_kinds():
    """Plain numbers, typeless rings and large structs have layouts, or none."""
    with BpfObject.open(OBJECT_PATH) as bpf:
        found = bpf.definitions()

    identity = found["aw_sandbox_id"]
    assert (identity.key.size, identity.value.size, identity.value.members) == (8, 8, ())
    assert (found["aw_denials"].key, found["aw_denials"].value) == (None, None)
    assert found["aw_hellos"].value.member("text").layout.size == 256
    assert found["aw_sockets"].value.member("scan").layout.member("state").layout.element.size == 2


def test_maps_without_types(tmp_path):
    """A map that was made without types has no layout."""
    point = mount_bpffs(tmp_path / "bpf")
    shape = MapShape(name="x", type=MapType.HASH, key_size=4, value_size=4, max_entries=1)
    with contextlib.closing(BpfMap.create(shape)) as made:
        pin(made.fd, point / "x")
        found = open_map(point / "x")
        found.map.close()
        (point / "x").unlink()

    assert (found.definition.shape, found.definition.value) == (shape, None)
    assert unmount_bpffs(point)


def test_types_that_are_not_there():
    """BTF that the kernel does not have is an error."""
    with pytest.raises(KernelError, match="BTF 2147483632: load"):
        Btf.from_kernel(0x7FFFFFF0)
