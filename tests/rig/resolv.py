# SPDX-License-Identifier: Apache-2.0
"""A resolv.conf of a command's own, so that glibc asks the server of a test and nobody else."""

from __future__ import annotations

from pathlib import Path

_SCRIPT = """
if [ -e /run/nscd ]; then mount -t tmpfs none /run/nscd; fi
mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"
"""
"""nscd's socket, the first road of glibc, is hidden too where there is one."""


def asking(
    directory: Path, server: str, *, search: str = "", options: str = "timeout:20 attempts:2"
) -> list[str | Path]:
    """Return a command prefix under which glibc asks *server* alone; files go to *directory*."""
    resolv, nsswitch = directory / "resolv.conf", directory / "nsswitch.conf"
    lines = [f"nameserver {server}", f"options {options}"]
    if search:
        lines.append(f"search {search}")
    resolv.write_text("\n".join(lines) + "\n")
    nsswitch.write_text("hosts: dns\n")
    return ["unshare", "--mount", "sh", "-ec", _SCRIPT, resolv, nsswitch]
