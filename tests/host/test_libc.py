# SPDX-License-Identifier: Apache-2.0
"""The C library calls, as far as no other module's test goes through them."""

from __future__ import annotations

import errno
import os

import pytest

from agentwall.host import libc


def in_child(action) -> int:
    """Run *action* in a forked process; return its exit code, 99 if it raised."""
    child = os.fork()
    if not child:
        code = 99
        try:
            code = action() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_error():
    """A refused call raises with the errno and what was tried."""
    with pytest.raises(OSError, match=r"umount /proc/self/nothing: ") as caught:
        libc.umount("/proc/self/nothing")

    assert caught.value.errno in (errno.EPERM, errno.ENOENT, errno.EINVAL)


def test_close_others():
    """Everything is closed but what is kept."""

    def check() -> int:
        made = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
        libc.close_others((0, 1, 2, made[2]))
        return int(
            [number for number in made if os.path.exists(f"/proc/self/fd/{number}")] != [made[2]]
        )

    assert in_child(check) == 0


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["no-such-program-here"], errno.ENOENT),
        (["/etc/passwd"], errno.EACCES),
        (["/"], errno.EACCES),
        (["/etc/passwd/x"], errno.ENOTDIR),
    ],
)
def test_exec_fails(argv, expected):
    """An execve() that fails comes back with its errno."""
    assert in_child(lambda: libc.execvpe(argv, dict(os.environ))) == expected


def test_exec_environment(tmp_path):
    """A program is found along PATH and gets exactly the environment that is given."""
    output = tmp_path / "out"

    def check() -> int:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
        return libc.execvpe(["env"], {"A": "b c", "PATH": os.environ["PATH"]})

    assert in_child(check) == 0
    assert output.read_text() == f"A=b c\nPATH={os.environ['PATH']}\n"


def test_exec_script_without_interpreter(tmp_path):
    """A script without #! goes to /bin/sh, as env(1) has it."""
    script = tmp_path / "script"
    script.write_text("exit 23\n")
    script.chmod(0o755)

    assert in_child(lambda: libc.execvpe([str(script)], dict(os.environ))) == 23
