# SPDX-License-Identifier: Apache-2.0
"""Leaving a sandbox, tried in earnest as uid 0 and as another user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rig.shared_mounts import mounts_changed_by

from agentwall.host.mountinfo import read_mounts

pytestmark = pytest.mark.kernel

USERS = pytest.mark.parametrize("user", [None, "nobody"])


def cgroup2() -> Path:
    return next(Path(mount.point) for mount in read_mounts() if mount.fstype == "cgroup2")


OUTSIDE = "/agentwall-test-outside"
LEAVE = [
    # Each of these would end in another cgroup, or with a writable view of one.
    "echo $$ >{cgroup}/cgroup.procs",
    "mkdir {cgroup}/agentwall-test-made-inside",
    "mount -o remount,rw,bind {cgroup}",
    "mount -o remount,rw {cgroup}",
    "umount {cgroup}",
    "umount -l {cgroup}",
    "mount -t cgroup2 none /mnt",
    "mount -t cgroup -o pids none /mnt",
    "mount -t bpf none /mnt",
    "mount --bind / /mnt",
    "mount --make-shared /",
    "nsenter --target 1 --mount true && nsenter --mount=/proc/1/ns/mnt false",
    "nsenter --cgroup=/proc/self/ns/cgroup true",
    "unshare --mount true",
    "unshare --cgroup true",
    "unshare --net true",
    "chroot /proc/1/root true",
    "unshare -Ur sh -c 'echo $$ >{cgroup}/cgroup.procs'",
    "unshare -Urm sh -c 'mount -o remount,rw,bind {cgroup}'",
    "unshare -Urm sh -c 'umount {cgroup}'",
    "unshare -Urm sh -c 'umount -l {cgroup}'",
    "unshare -Urm sh -c 'mount -t cgroup2 none /mnt'",
    "unshare -Urm sh -c 'mount --bind /sys/fs /mnt'",
    # What lies above the root of a cgroup namespace, the sandbox's cgroup, cannot be named.
    "unshare -UrmC sh -c 'mount -t cgroup2 none /mnt && cat /mnt{outside}/cgroup.procs'",
]


@USERS
@pytest.mark.parametrize("attempt", LEAVE)
def test_leaving_fails(run_inside, own_cgroup, user, attempt):
    """Every attempt to get out of the cgroup, or to a writable cgroupfs, fails."""
    command = attempt.format(cgroup=cgroup2(), outside=OUTSIDE)

    code, output = run_inside(f"if {command}; then echo LEFT; fi; cat /proc/self/cgroup", user=user)

    assert code == 0
    assert "LEFT" not in output
    assert f"0::{own_cgroup.path}\n" in output
    assert not (cgroup2() / "agentwall-test-made-inside").exists()


@USERS
def test_own_subtree_stays_inside(run_inside, own_cgroup, user):
    """A cgroup made through a cgroup namespace lies below the sandbox's: no way out of it."""
    script = (
        "unshare -UrmC sh -c 'mount -t cgroup2 none /mnt && mkdir /mnt/x && "
        "echo $$ >/mnt/x/cgroup.procs'; cat /proc/self/cgroup"
    )

    assert f"0::{own_cgroup.path}" in run_inside(script, user=user)[1]


@USERS
def test_every_cgroup_mount_is_read_only(run_inside, user):
    """Each mount of a cgroup file system, of either version, is read-only."""
    _, output = run_inside("cat /proc/self/mountinfo", user=user)

    options = [line.split(" ")[5].split(",") for line in output.splitlines() if " - cgroup" in line]
    assert options
    assert all("ro" in each for each in options)


@USERS
def test_no_host_process(run_inside, user):
    """Processes outside are neither listed nor reachable: process 1 is the sandbox's own."""
    script = "ls -d /proc/[0-9]* | wc -l; ls -d /proc/{pid}; kill -0 {pid} && echo ALIVE"

    _, output = run_inside(script.format(pid=os.getpid()), user=user)

    assert int(output.splitlines()[0]) < 8
    assert "ALIVE" not in output
    assert "No such file" in output


def test_hidden(run_inside, tmp_path):
    """A hidden directory is empty and cannot be written, uncovered or filled, even by uid 0."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "pin").touch()
    script = (
        f"ls -A {secret}; touch {secret}/x; umount {secret}; "
        f"unshare -Urm sh -c 'umount {secret}; ls -A {secret}'; ls -A {secret}; echo end"
    )

    _, output = run_inside(script, hidden=(secret,))

    assert "pin" not in output
    assert output.endswith("end\n")
    assert [path.name for path in secret.iterdir()] == ["pin"]


@pytest.mark.parametrize(
    "attempt",
    [
        "echo forged >>{file}",
        "rm -f {file}",
        "mv {file} {file}.old",
        "chmod 666 {file}",
        "ln -sf /dev/null {file}",
        "umount {file}",
        "mount -o remount,rw,bind {file}",
        "truncate -s 0 {file}",
    ],
)
def test_read_only(run_inside, tmp_path, attempt):
    """A guarded file can be read, but not changed, removed, renamed or replaced, by uid 0."""
    file = tmp_path / "events"
    file.write_text("true\n")
    file.chmod(0o640)

    command = attempt.format(file=file)
    _, output = run_inside(f"if {command}; then echo DONE; fi; cat {file}", read_only=(file,))

    assert "DONE" not in output
    assert output.endswith("true\n")
    assert file.read_text() == "true\n"
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "knob",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/ksm/run",
    ],
)
def test_kernel_knobs(run_inside, knob):
    """uid 0 cannot write what makes the kernel start a program outside."""
    if not Path(knob).exists():
        pytest.skip(f"{knob} is not there")
    # Opened, not written: had it worked, nothing would have changed.
    assert run_inside(f"if : >>{knob}; then echo OPENED; fi; : ")[1].count("OPENED") == 0


def test_new_proc_has_no_knobs(run_inside):
    """A /proc that uid 0 mounts in a user namespace is refused, or guarded like the first."""
    script = (
        "unshare -Urmpf sh -c 'mount -t proc none /mnt && : >>/mnt/sys/kernel/core_pattern "
        "&& echo OPENED'; :"
    )

    assert "OPENED" not in run_inside(script)[1]


def test_caller_keeps_its_mounts(run_inside):
    """Nothing of the confinement reaches the caller's own mount namespace."""
    _, changed = mounts_changed_by(lambda: run_inside("true"))

    assert changed == []
