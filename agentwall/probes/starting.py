# SPDX-License-Identifier: Apache-2.0
"""The root directory that a process is going to have, before it has it.

While a runtime's ``createRuntime`` hook is waited for, the container's process has the host's root
still, in a mount namespace of its own where the container's is mounted already (runtime-spec,
"createRuntime Hooks"): the bundle's config.json says where, and what is executed then.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agentwall.probes.command import Command
from agentwall.probes.mounts import Mounts, may_hang, mount_of
from agentwall.probes.walking import open_below, open_regular

MAX_CONFIG_BYTES = 4 << 20
MAX_TEXT = 4096
"""Of a path; longer ones are as if they were not there."""
MAX_VARIABLES = 4096

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

Start = Command | Path
"""What a process is about to do: execute a command, or become the container of the OCI bundle in
this directory of the host's."""


def open_root(mounts: Mounts) -> int | None:
    """Open the root directory of a process; None: it is gone, or its file system may hang."""
    try:
        root = os.open(f"/proc/{mounts.pid}/root", _DIRECTORY)
    except OSError:
        return None
    if may_hang(mounts.fstype(root)):
        os.close(root)
        return None
    return root


def root_mount(pid: int) -> bytes | None:
    """Return the number of the mount that a process has its root on; None: it is gone.

    Nothing of its file system is touched.
    """
    try:
        root = os.open(f"/proc/{pid}/root", _DIRECTORY)
    except OSError:
        return None
    try:
        return mount_of(root)
    finally:
        os.close(root)


def open_container(mounts: Mounts, root: int, bundle: Path) -> tuple[int, Command | None] | None:
    """Open the root directory that a container is going to have, if it has the host's still.

    Args:
        mounts: Those of its process.
        root: The root directory of that, open.
        bundle: The directory of its bundle, for the host.

    Returns:
        The descriptor, which the caller closes, and the command. None: the process has gone on
        already, or nothing there says.
    """
    if not _is_hosts(root):
        return None
    config = _read_config(mounts, root, bundle)
    inner = config.get("root")
    path = _text(inner.get("path")) if isinstance(inner, dict) else None
    opened = open_below(mounts, root, str(bundle / path)) if path else None
    if opened is None:
        return None
    fd, _ = opened
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return fd, _command(config.get("process"))


def _is_hosts(root: int) -> bool:
    own = os.fstat(root)
    for host in ("/proc/1/root", "/"):  # the daemon may be in a container itself
        # Process 1 may be nobody's to look at.
        with suppress(OSError):
            if os.path.samestat(own, os.stat(host)):
                return True
    return False


def _read_config(mounts: Mounts, root: int, bundle: Path) -> Mapping[str, object]:
    opened = open_below(mounts, root, str(bundle / "config.json"))
    if opened is None:
        return {}
    fd = open_regular(opened[0])
    if fd is None:
        return {}
    try:
        with open(fd, "rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        document = json.loads(text) if len(text) <= MAX_CONFIG_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _command(process: object) -> Command | None:
    if not isinstance(process, dict):
        return None
    words, variables = process.get("args"), process.get("env")
    program = _text(words[0]) if isinstance(words, list) and words else None
    if program is None:
        return None
    found: dict[str, str] = {}
    for each in variables[:MAX_VARIABLES] if isinstance(variables, list) else ():
        key, _, value = (_text(each) or "").partition("=")
        if key in ("PATH", "LD_LIBRARY_PATH"):
            found[key] = value
    return Command(
        program=program,
        path=found.get("PATH", ""),
        library_path=found.get("LD_LIBRARY_PATH", ""),
        directory=_text(process.get("cwd")) or "/",
    )


def _text(value: object) -> str | None:
    is_text = isinstance(value, str) and 0 < len(value) <= MAX_TEXT and "\0" not in value
    return value if is_text else None  # type: ignore[return-value]
