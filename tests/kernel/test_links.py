# SPDX-License-Identifier: Apache-2.0
"""Links hold programs at cgroups, also by a pin alone, and can be replaced and taken off."""

import errno
import os
import socket
import subprocess
import sys

import pytest
from rig import in_cgroup, temp_cgroup

from agentwall.errors import KernelError
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.libbpf import AttachType, ProgramType
from agentwall.kernel.links import Link, effective_programs, open_pin, pin, program_info
from agentwall.kernel.objects import BpfObject
from agentwall.kernel.probe import RETURN_0, loaded

pytestmark = pytest.mark.kernel

CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 60)"


@pytest.fixture
def cgroup():
    """A cgroup of the test's own."""
    with temp_cgroup() as path:
        yield path


@pytest.fixture
def port():
    """A listening TCP port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def deny():
    """A connect4 program that refuses everything."""
    with loaded(
        ProgramType.CGROUP_SOCK_ADDR, AttachType.CONNECT4, instructions=RETURN_0
    ) as descriptor:
        yield descriptor


@pytest.fixture
def permit():
    """A connect4 program that permits everything."""
    with loaded(ProgramType.CGROUP_SOCK_ADDR, AttachType.CONNECT4) as descriptor:
        yield descriptor


def connects(cgroup, port: int) -> bool:
    command = in_cgroup(cgroup, sys.executable, "-c", CONNECT, str(port))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 or "PermissionError" in done.stderr
    return done.returncode == 0


def test_attached_until_closed(cgroup, port, deny):
    """A program decides from attach until its link's last descriptor is closed."""
    with attachable(cgroup) as fd:
        link = Link.attach(deny, fd, AttachType.CONNECT4)
        before = connects(cgroup, port)
        link.close()

    assert (before, connects(cgroup, port)) == (False, True)


def test_update(cgroup, port, deny, permit):
    """Another program takes the place of the present one."""
    with attachable(cgroup) as fd:
        link = Link.attach(deny, fd, AttachType.CONNECT4)
    link.update(permit)
    after = connects(cgroup, port)
    link.close()

    assert after


def test_detach(cgroup, port, deny):
    """Detaching takes the program off although descriptors of the link are still open."""
    with attachable(cgroup) as fd:
        link = Link.attach(deny, fd, AttachType.CONNECT4)
        info = link.info()
        expected = os.fstat(fd).st_ino
    link.detach()
    detached = link.info()
    reached = connects(cgroup, port)
    link.close()

    assert reached
    assert (info.cgroup_id, info.attach_type) == (expected, AttachType.CONNECT4)
    assert detached.cgroup_id == 0


def test_update_after_detach(cgroup, deny, permit):
    """A link that was detached holds nothing any more, and says so."""
    with attachable(cgroup) as fd:
        link = Link.attach(deny, fd, AttachType.CONNECT4)
    link.detach()

    with pytest.raises(KernelError, match="attach connect4: update") as caught:
        link.update(permit)

    link.close()
    assert caught.value.errno == errno.ENOLINK


def test_effective_programs(cgroup, deny):
    """A child cgroup is under the programs of its ancestors, which can be named."""
    child = cgroup / "child"
    child.mkdir()
    with attachable(cgroup) as fd, attachable(child) as child_fd:
        link = Link.attach(deny, fd, AttachType.CONNECT4)
        ids = effective_programs(child_fd, AttachType.CONNECT4)
        ours = link.info().program_id
        link.close()
        without = effective_programs(child_fd, AttachType.CONNECT4)

    assert ours in ids
    assert ours not in without


def test_program_info(deny, cgroup):
    """A loaded program is known by its id, and one that is gone is not."""
    with attachable(cgroup) as fd:
        link = Link.attach(deny, fd, AttachType.CONNECT4)
    found = program_info(link.info().program_id)
    link.close()

    assert found
    assert (found.name, found.created_by_uid) == ("aw_probe", 0)
    assert program_info(0x7FFFFFF0) is None


def test_pin_where_there_is_no_bpffs(tmp_path, deny):
    """Pinning on another file system is an error with the path."""
    with pytest.raises(KernelError, match=f"{tmp_path}/x: pin"):
        pin(deny, tmp_path / "x")


def test_no_pin_to_open(tmp_path):
    """Opening a pin that does not exist is an error with the path."""
    with pytest.raises(KernelError, match=f"{tmp_path}/x: open pin: no such file"):
        open_pin(tmp_path / "x")


def test_storage_of_the_attach_point(cgroup, port, compile_bpf):
    """Attaching makes the cgroup's storage entry, zeroed; the program reads what is put there."""
    with BpfObject.open(compile_bpf("binding")) as bpf:
        bpf.load()
        program, owner = bpf.program("on_connect4"), bpf.maps()["owner"]
        with attachable(cgroup) as fd:
            key = os.fstat(fd).st_ino.to_bytes(8, sys.byteorder)
            with pytest.raises(KernelError, match="map owner: update: no such file"):
                owner.update(key, bytes(8))
            link = Link.attach(program.fd, fd, program.attach_type)

        assert owner.lookup(key) == bytes(8)
        owner.update(key, (77).to_bytes(8, sys.byteorder))
        assert connects(cgroup, port)
        assert owner.lookup(key) == (77).to_bytes(8, sys.byteorder)
        link.close()
