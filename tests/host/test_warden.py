# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a sandbox: out of the command's reach, and alive without agentwall."""

from __future__ import annotations

import os
import signal

import pytest
from rig.process import wait_until

from agentwall.host.launch import prepare

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("user", [None, "nobody"])
def test_out_of_reach(run_inside, user):
    """The command can neither end nor trace process 1, nor see its memory."""
    attempts = (
        "kill -KILL 1; kill -STOP 1; kill -TERM 1; "
        "cat /proc/1/environ 2>&1 | grep -c denied; "
        "dd if=/proc/1/mem of=/dev/null count=1 2>&1 | grep -c denied; "
        "echo alive"
    )

    assert run_inside(attempts, user=user) == (0, "1\n1\nalive\n")


def test_reaps_orphans(run_inside):
    """Orphans of the command do not stay as zombies."""
    # A zombie is listed in /proc until it is reaped.
    script = (
        "orphan=$(sh -c 'sleep 0.1 >/dev/null & echo $!'); tries=0; while [ -e /proc/$orphan ] && "
        "[ $((tries += 1)) -lt 1200 ]; do sleep 0.05; done; ps -eo stat= | grep -c Z"
    )

    assert run_inside(script) == (1, "0\n")


def test_outlives_its_parent(own_cgroup, make_launch, tmp_path):
    """When its parent is killed the command goes on, and when that ends so does everything."""
    go_on, trace = tmp_path / "go-on", tmp_path / "trace"
    script = f"while [ ! -e {go_on} ]; do sleep 0.05; done; echo done >{trace}; sleep 60 &"
    reader, writer = os.pipe()
    parent = os.fork()
    if not parent:
        # A process like agentwall, to be killed.
        from agentwall.host.signals import SignalQueue

        try:
            sandboxed = prepare(make_launch(script), own_cgroup, SignalQueue())
            sandboxed.start()
            sandboxed.read()
            os.write(writer, b"x")
            signal.sigwait([signal.SIGALRM])
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)

    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert own_cgroup.is_populated()
    go_on.touch()

    wait_until(lambda: not own_cgroup.is_populated(), what="the sandbox's end")
    assert trace.read_text() == "done\n"
