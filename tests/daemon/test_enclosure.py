# SPDX-License-Identifier: Apache-2.0
"""A cgroup behind a wall, made and removed without a trace."""

from __future__ import annotations

import errno
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rig.cgroup import in_cgroup
from rig.descriptors import descriptors
from rig.process import run_checked, wait_until

from agentwall.daemon.enclosure import Enclosure
from agentwall.daemon.leftovers import clear_leftover, find_leftovers
from agentwall.daemon.plan import new_run_id, plan_enclosure
from agentwall.errors import KernelError
from agentwall.host import state
from agentwall.kernel import pins
from agentwall.kernel.objects import BpfObject

pytestmark = pytest.mark.kernel


def connect(cgroup: Path, listener: socket.socket) -> int:
    """Connect to *listener* from inside *cgroup*; return the errno."""
    port = listener.getsockname()[1]
    code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {port})))"
    done = subprocess.run(
        in_cgroup(cgroup, "python3", "-c", code), capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_stands_and_goes(make_enclosure, make_request, listener):
    """A wall stands as soon as it is built, and nothing of it is left when it is removed."""
    policy = "version: 1\nloopback: deny\n"
    enclosure = make_enclosure(make_request(policy=policy))
    pin_dir = pins.BPFFS / enclosure.cgroup.path.rsplit("agentwall-", 1)[-1]

    assert connect(enclosure.cgroup.directory, listener) == errno.EPERM
    assert pins.list_pins(pin_dir)
    enclosure.remove()
    assert not enclosure.cgroup.directory.exists()
    assert not pin_dir.exists()
    assert [run for run in state.live_runs() if run.cgroup == enclosure.cgroup.path] == []
    assert [run for run in state.leftovers() if run.cgroup == enclosure.cgroup.path] == []


def test_permits(make_enclosure, make_request, listener):
    """What the policy allows gets through."""
    port = listener.getsockname()[1]
    policy = f"version: 1\nloopback: deny\nallow: [{{cidr: 127.0.0.1, ports: [{port}]}}]\n"

    assert connect(make_enclosure(make_request(policy=policy)).cgroup.directory, listener) == 0


def test_failure_leaves_nothing(make_request, tmp_path):
    """When building fails half way, cgroup, pins and record are gone again."""
    blueprint = plan_enclosure(new_run_id(), make_request(), tmp_path / "e")
    broken = replace(blueprint, settings=replace(blueprint.settings, refuse_errno=99999))

    with pytest.raises(KernelError):
        Enclosure(broken)
    assert not blueprint.place.directory.exists()
    assert not Path(blueprint.record.pin_dir).exists()
    assert blueprint.record not in [*state.live_runs(), *state.leftovers()]


def test_others_need_not_wait_for_the_verifier(make_enclosure, monkeypatch):
    """What keeps other runs from setting up is not held while the programs are looked at."""
    held = []
    load = BpfObject.load

    def watched(self: BpfObject) -> None:
        opened = {leads_to for _, leads_to in descriptors()}
        held.append(str(state.RUN_DIRECTORY / "lock") in opened)
        load(self)

    monkeypatch.setattr(BpfObject, "load", watched)
    make_enclosure()

    assert held == [False]


def test_removal_ends_processes(make_enclosure):
    """Removing ends what still runs inside: no process loses the wall and lives."""
    enclosure = make_enclosure()
    with subprocess.Popen(in_cgroup(enclosure.cgroup.directory, "sleep", "60")) as child:
        wait_until(enclosure.cgroup.is_populated, what="the process in the cgroup")
        enclosure.remove()

        assert child.wait() == -9


def test_damage_is_seen(make_enclosure):
    """A hook that somebody detached is named."""
    enclosure = make_enclosure()
    assert enclosure.damage() is None

    enclosure.wall.links(enclosure.key)[0].detach()

    assert "detached: aw_" in enclosure.damage()


def test_what_cannot_be_removed_stays(make_enclosure):
    """If something cannot be removed its run is found as a leftover, and cleared later."""
    enclosure = make_enclosure()
    run_id = enclosure.cgroup.path.rsplit("agentwall-", 1)[-1]
    directory = pins.BPFFS / run_id / pins.LINKS
    # A mount point cannot be removed.
    run_checked("mount", "--bind", directory, directory)
    try:
        with pytest.raises(KernelError):
            enclosure.remove()
    finally:
        run_checked("umount", directory)

    [leftover] = [each for each in find_leftovers() if each.record.id == run_id]
    clear_leftover(leftover)
    assert not enclosure.cgroup.directory.exists()
    assert run_id not in [each.record.id for each in find_leftovers()]
