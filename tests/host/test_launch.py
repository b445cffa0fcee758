# SPDX-License-Identifier: Apache-2.0
"""Starting a command in its cgroup and staying in touch with it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from rig.process import wait_until

from agentwall.errors import HostError
from agentwall.host.cgroup import path_of
from agentwall.host.launch import prepare

pytestmark = pytest.mark.kernel


def finish(sandboxed) -> int:
    """Start the command, wait for its end, and return its exit code."""
    sandboxed.start()
    while sandboxed.exit_code is None:
        sandboxed.read()
    sandboxed.end()
    return sandboxed.exit_code


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 125", 125), ("kill -TERM $$", 143), ("kill -9 $$", 137)],
)
def test_exit_code(run_inside, script, code):
    """The exit code is what a shell would say of the command."""
    assert run_inside(script)[0] == code


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("no-such-program",), 127),
        (("/etc/passwd",), 126),
        (("/etc/passwd/x",), 127),
        (("/",), 126),
    ],
)
def test_not_executed(own_cgroup, signals, make_launch, argv, code):
    """A program that is missing gives 127, one that cannot be executed 126, and the reason."""
    sandboxed = prepare(make_launch("", argv=argv), own_cgroup, signals)

    assert finish(sandboxed) == code
    assert sandboxed.not_executed


def test_in_cgroup_before_first_instruction(run_inside, own_cgroup):
    """The command finds itself in its cgroup."""
    _, output = run_inside("cat /proc/self/cgroup")

    assert f"0::{own_cgroup.path}\n" in output


def test_waits_for_start(own_cgroup, signals, make_launch, tmp_path):
    """Until it is started, the command does not run; a sandbox that is given up leaves nothing."""
    trace = tmp_path / "trace"
    sandboxed = prepare(make_launch(f"touch {trace}"), own_cgroup, signals)
    assert own_cgroup.pids() == (sandboxed.pid,)

    sandboxed.end()

    assert not trace.exists()
    assert not own_cgroup.is_populated()


def test_background_ends_with_command(run_inside, own_cgroup):
    """What the command leaves in the background is gone when the sandbox has ended."""
    code, _ = run_inside("setsid sleep 60 & (sleep 60 &) ; exit 3")

    assert code == 3
    assert own_cgroup.pids() == ()


def test_failure_is_told(own_cgroup, signals, make_launch):
    """A confinement that cannot be made is an error with its cause, and leaves nothing."""
    launch = make_launch("true", read_only=(Path("/proc/no-such-thing"),))

    with pytest.raises(HostError, match=r"confining the command: mount /proc/no-such-thing"):
        prepare(launch, own_cgroup, signals)
    assert not own_cgroup.is_populated()


def test_no_pid_namespace_stays(own_cgroup, signals, make_launch):
    """Later children of the caller are in the caller's PID namespace again."""
    prepare(make_launch("true"), own_cgroup, signals).end()

    assert os.readlink("/proc/self/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


def test_environment_and_directory(run_inside, tmp_path, monkeypatch):
    """The command gets the caller's environment and working directory."""
    monkeypatch.setenv("AGENTWALL_TEST", "a b")
    monkeypatch.chdir(tmp_path)

    assert run_inside('echo "$AGENTWALL_TEST"; pwd')[1] == f"a b\n{tmp_path}\n"


def test_descriptors(own_cgroup, signals, make_launch, tmp_path):
    """Descriptors above 2 are closed, but for those that are kept."""
    output = tmp_path / "out"
    kept = os.open(output, os.O_WRONLY | os.O_CREAT)
    other = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(kept, True)
    os.set_inheritable(other, True)
    script = f"exec ls /proc/self/fd >/proc/self/fd/{kept}"
    launch = replace(make_launch(script), kept_descriptors=(0, 1, 2, kept))

    code = finish(prepare(launch, own_cgroup, signals))
    os.close(kept)
    os.close(other)

    listed = set(output.read_text().split())
    # One more is the directory that is being listed.
    assert code == 0
    assert {"0", "1", "2", str(kept)} <= listed
    assert len(listed) == 5


def test_signal_dispositions(run_inside):
    """The command starts with the caller's signal mask, and SIGPIPE is not ignored."""
    _, output = run_inside("grep -E '^Sig(Blk|Ign)' /proc/self/status")
    _, blocked, _, ignored = output.split()
    # 32 and 33 are the C library's own, and ignored in whatever posix_spawn(3) of make starts.
    with_meaning = (1 << 31) - 1

    assert int(blocked, 16) == 0
    assert int(ignored, 16) & with_meaning == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH])
def test_signal_once(own_cgroup, signals, make_launch, tmp_path, number):
    """A signal that is passed on arrives once."""
    log = tmp_path / "log"
    script = (
        f"trap 'echo got >>{log}; got=1' {number.name[3:]}; echo ready >{log}; "
        'while [ -z "$got" ]; do sleep 0.1; done; for i in 1 2 3; do sleep 0.1; done'
    )
    sandboxed = prepare(make_launch(script), own_cgroup, signals)
    sandboxed.start()
    sandboxed.read()
    wait_until(log.exists, what="the trap")
    sandboxed.pass_on(number)

    assert finish(sandboxed) == 0
    assert log.read_text().split() == ["ready", "got"]


def test_killed_warden(own_cgroup, signals, make_launch):
    """When process 1 of the sandbox is killed all is over, and counts as killed."""
    sandboxed = prepare(make_launch("sleep 60"), own_cgroup, signals)
    sandboxed.start()
    sandboxed.read()
    assert path_of(sandboxed.pid) == own_cgroup.path

    os.kill(sandboxed.pid, signal.SIGKILL)

    assert finish(sandboxed) == 137
    assert own_cgroup.pids() == ()
