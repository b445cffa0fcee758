# SPDX-License-Identifier: Apache-2.0
"""What a veil leaves out is out of reach, whatever the sandbox or the host does."""

from __future__ import annotations

import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rig.process import wait_until

from agentwall.errors import HostError
from agentwall.host import libc
from agentwall.host.veil import Veil

pytestmark = pytest.mark.kernel

USERS = pytest.mark.parametrize("user", [None, "nobody"])
ABSENT = frozenset({("nscd",), ("deep", "er", "socket"), ("not", "there")})
CONNECT = (
    "python3 -c \"import socket, sys; socket.socket(socket.AF_UNIX).connect('{path}')\""
    " && echo REACHED-{name}"
)


@pytest.fixture
def run_dir(public_path) -> Iterator[Path]:
    """A directory like /run, with sockets that are listened on."""
    directory = public_path / "run"
    for name in ("nscd", "deep/er", "shared"):
        (directory / name).mkdir(parents=True)
    (directory / "shared").chmod(0o1777)
    (directory / "deep/er/data").write_text("data\n")
    (directory / "link").symlink_to("shared")
    with ExitStack() as stack:
        for name in ("nscd/socket", "deep/er/socket", "other.sock"):
            listen(directory / name, stack)
        yield directory


def listen(path: Path, stack: ExitStack) -> None:
    """Listen at *path*, for every user."""
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen()


def connect(directory: Path, *names: str) -> str:
    """Return the script that tries to connect to each socket."""
    return "\n".join(CONNECT.format(path=directory / name, name=name) for name in names)


@USERS
def test_absent(run_inside, run_dir, user):
    """What is left out has no name; what is beside it is there and answers."""
    script = connect(run_dir, "nscd/socket", "deep/er/socket", "other.sock")
    listing = f"{script}\nls -A {run_dir} {run_dir}/shared/.. ; cat {run_dir}/link/x"
    (run_dir / "shared/x").write_text("shared\n")

    _, bare = run_inside(script)
    _, output = run_inside(listing, user=user, veils=(Veil(directory=run_dir, absent=ABSENT),))

    assert bare.count("REACHED") == 3
    assert [line for line in output.splitlines() if "REACHED" in line] == ["REACHED-other.sock"]
    assert "nscd\n" not in output
    assert output.endswith("shared\n")


def test_likeness(run_inside, run_dir):
    """What is made anew keeps owner, mode, contents, links and mounts; the host's stays whole."""
    run_dir.chmod(0o751)
    (run_dir / "deep/er").chmod(0o710)
    shutil.chown(run_dir / "deep/er", 65534, 65534)
    script = (
        f"stat -c '%a %u' {run_dir} {run_dir}/deep/er; cat {run_dir}/deep/er/data;"
        f"readlink {run_dir}/link; grep -c ' {run_dir}/shared ' /proc/self/mountinfo;"
        f"touch {run_dir}/shared/made {run_dir}/unseen"
    )

    _, output = run_inside(script, veils=(Veil(directory=run_dir, absent=ABSENT),))

    assert output.splitlines() == ["751 0", "710 65534", "data", "shared", "1"]
    assert (run_dir / "shared/made").exists()
    assert not (run_dir / "unseen").exists()
    assert stat.S_ISSOCK((run_dir / "nscd/socket").stat().st_mode)


def test_mounts_below(run_inside, run_dir, tmp_path):
    """Mounts below the directory are seen in the sandbox, read-only where they are guarded."""
    (run_dir / "shared/file").write_text("x\n")
    mounted = run_dir / "shared/mounted"
    mounted.mkdir()
    libc.mount("test", str(mounted), "tmpfs", 0, "size=64k")
    try:
        (mounted / "inside").write_text("inside\n")
        script = f"cat {mounted}/inside; echo forged >>{run_dir}/shared/file; cat {mounted}/../file"
        _, output = run_inside(
            script,
            veils=(Veil(directory=run_dir, absent=ABSENT),),
            read_only=(run_dir / "shared/file",),
        )
    finally:
        libc.umount(str(mounted))

    assert output.startswith("inside\n")
    assert output.endswith("x\n")
    assert "forged" not in output


UNCOVER = [
    "umount {dir}",
    "umount -l {dir}",
    "mount --bind / /mnt && ls /mnt{dir}/nscd/socket",
    "unshare -Urm sh -c 'umount {dir}'",
    "unshare -Urm sh -c 'umount -l {dir}'",
    "unshare -Urm sh -c 'umount -l {dir}/shared && ls {dir}/shared/../nscd/socket'",
    "unshare -Urm sh -c 'mount --bind / /mnt && ls /mnt{dir}/nscd/socket'",
    "unshare -Urm sh -c 'mount --rbind / /mnt && umount -l /mnt{dir}'",
    "unshare -Urm sh -c 'mount --bind {dir}/.. /mnt && ls /mnt/run/nscd/socket'",
    "unshare -Urm sh -c 'mount --make-rprivate / && umount -R {dir}'",
    "ls /proc/1/root{dir}/nscd/socket",
    "ls /proc/self/cwd/nscd/socket /proc/self/cwd/../run/nscd/socket",
    "ls nscd/socket",
    "ls ../run/nscd/socket",
]


@USERS
@pytest.mark.parametrize("attempt", UNCOVER)
def test_nothing_uncovers(run_inside, run_dir, monkeypatch, user, attempt):
    """Nothing brings back what was covered, not even a working directory below it."""
    monkeypatch.chdir(run_dir)
    command = attempt.format(dir=run_dir)
    script = f"if {command}; then echo UNCOVERED; fi; cd {run_dir} && ls nscd; echo end"

    _, output = run_inside(script, user=user, veils=(Veil(directory=run_dir, absent=ABSENT),))

    assert "UNCOVERED" not in output
    assert output.endswith("end\n")


def test_working_directory_that_is_gone(run_inside, run_dir, monkeypatch):
    """A working directory that was removed gives no way back either."""
    gone = run_dir / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    _, output = run_inside(
        "ls ../nscd/socket && echo UNCOVERED; pwd",
        veils=(Veil(directory=run_dir, absent=ABSENT),),
    )

    assert "UNCOVERED" not in output
    assert output.endswith("/\n")


def test_working_directory_left_out(run_inside, run_dir, monkeypatch):
    """A command cannot start in a directory that is left out."""
    monkeypatch.chdir(run_dir / "nscd")

    with pytest.raises(HostError, match=r"working directory .*/nscd: not in the sandbox"):
        run_inside("true", veils=(Veil(directory=run_dir, absent=ABSENT),))


def restart(directory: Path, stack: ExitStack) -> None:
    """Do as a service manager does: remove directory and socket, make both anew."""
    shutil.rmtree(directory / "nscd")
    (directory / "nscd").mkdir()
    (directory / "deep/er/socket").unlink()
    for name in ("nscd/socket", "deep/er/socket", "not"):
        listen(directory / name, stack)


@USERS
def test_restart_of_the_daemon(run_inside, run_dir, user):
    """A socket that appears while the command runs stays out of reach, as does a daemon's new one.

    A mount over the socket itself would be taken off by the unlink.
    """
    output = during(
        run_dir,
        lambda script: run_inside(
            script, user=user, veils=(Veil(directory=run_dir, absent=ABSENT),)
        )[1],
        connect(run_dir, "nscd/socket", "deep/er/socket", "not", "other.sock"),
    )

    assert [line for line in output.splitlines() if "REACHED" in line] == ["REACHED-other.sock"]


def during(run_dir: Path, run: Callable[[str], str], script: str) -> str:
    """Run *script* in a sandbox that is up while the daemons restart."""
    ready, go = run_dir / "shared/ready", run_dir / "shared/go"
    with ExitStack() as stack:

        def host() -> None:
            wait_until(ready.exists, what="the sandbox")
            restart(run_dir, stack)
            go.touch()

        thread = threading.Thread(target=host)
        thread.start()
        output = run(f"touch {ready}; until [ -e {go} ]; do sleep 0.05; done\n{script}")
        thread.join()
    return output


@pytest.mark.parametrize("name", ["deep/er/resolv.conf", "made/for/it", "shared/file"])
@USERS
def test_file(run_inside, run_dir, public_path, user, name):
    """A file given with a veil has the given content, by links too, and is read-only."""
    link = public_path / "etc.conf"
    link.symlink_to(run_dir / name)
    script = (
        f"cat {link}; echo x >>{link}; rm -f {run_dir / name}; umount {link};"
        f"unshare -Urm sh -c 'umount {link}; mount -o remount,bind,rw {link}; echo x >>{link}';"
        f"cat {run_dir / name}"
    )

    _, output = run_inside(
        script,
        user=user,
        veils=(Veil(directory=run_dir, absent=ABSENT),),
        files={link: "nameserver 192.0.2.53\n"},
    )

    assert output.startswith("nameserver 192.0.2.53\n")
    assert output.endswith("\nnameserver 192.0.2.53\n")
    assert output.count("nameserver") == 2
    assert not (run_dir / name).exists()


def test_no_directory(run_inside, public_path):
    """A veil over what is not there is none."""
    veil = Veil(directory=public_path / "none", absent=ABSENT)

    assert run_inside("echo ran", veils=(veil,)) == (0, "ran\n")
