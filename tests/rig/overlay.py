# SPDX-License-Identifier: Apache-2.0
"""This machine's root file system with a throw-away layer on top, to install packages into."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.scratch import scratch

# In a mount namespace of its own: all of it is gone with its last process. /run is empty, so that
# nothing in it believes that systemd runs, and no socket of this machine's daemons is there.
_SETUP = """
set -e
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" root
for each in proc sys dev; do mount --rbind "/$each" "root/$each"; done
mount -t tmpfs tmpfs root/run
echo ready
exec cat
"""

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}


class NoOverlayError(Exception):
    """This machine cannot lay one file system over another; the message says why."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """A root file system; what is written there stays there."""

    pid: int
    root: Path

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs *words* with that root."""
        enter = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--", "chroot", str(self.root)]
        return [*enter, *words]

    def run(self, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run *command* with that root, its standard input *text*; the exit code is not judged."""
        return subprocess.run(
            self.command(*command),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )

    def write(self, path: str, content: bytes) -> None:
        """Write a file there."""
        Path(f"/proc/{self.pid}/root{self.root}{path}").write_bytes(content)


@contextmanager
def overlay() -> Iterator[Overlay]:
    """Make an overlay for the length of the block.

    Raises:
        NoOverlayError: Not root, or the kernel has no overlayfs.
    """
    if os.geteuid() != 0:
        raise NoOverlayError("needs root: mounts")
    with scratch("overlay") as directory:
        command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", _SETUP, "bash"]
        holder = subprocess.Popen(
            [*command, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout is not None, "it is a pipe"
            if holder.stdout.readline() != "ready\n":
                _, why = holder.communicate()
                raise NoOverlayError(why.strip())
            yield Overlay(holder.pid, directory / "root")
        finally:
            holder.communicate()
