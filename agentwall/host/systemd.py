# SPDX-License-Identifier: Apache-2.0
"""What a service and systemd tell each other, without libsystemd.

To the manager: :func:`notify` (sd_notify(3)). From it: :func:`watchdog_interval_s`
(sd_watchdog_enabled(3)). Sockets that it opened are ``daemon/control_socket``'s.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_MAX_STATUS = 500
_SUN_PATH = 107


def notify(
    *,
    ready: bool = False,
    reloading: bool = False,
    stopping: bool = False,
    watchdog: bool = False,
    status: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> bool:
    """Tell the service manager how this process is; return whether it was told.

    Never raises and never blocks: enforcement does not depend on who listens. Without
    ``NOTIFY_SOCKET`` there is nobody to tell.

    Args:
        ready: Start or reload is complete.
        reloading: The configuration is being read again; *ready* must follow.
        stopping: The process is about to end.
        watchdog: The process is alive, see :func:`watchdog_interval_s`.
        status: One line for ``systemctl status``; control characters become blanks.
        environ: Where ``NOTIFY_SOCKET`` is looked up.
    """
    lines = []
    if reloading:
        # Type=notify-reload takes no RELOADING=1 without the time (since systemd 253).
        lines += ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"]
    if ready:
        lines.append("READY=1")
    if stopping:
        lines.append("STOPPING=1")
    if watchdog:
        lines.append("WATCHDOG=1")
    if status is not None:
        shown = "".join(c if c.isprintable() else " " for c in status[:_MAX_STATUS])
        lines.append(f"STATUS={shown}")
    address = _address(environ.get("NOTIFY_SOCKET", ""))
    if not lines or address is None:
        return False
    return _send(address, "\n".join(lines).encode("utf-8", "replace"))


def _address(text: str) -> bytes | None:
    # A path, or an abstract name after '@'. vsock: is for managers of virtual machines.
    if text[:1] not in ("/", "@") or len(text) < 2:
        return None
    raw = os.fsencode(text)
    return None if len(raw) > _SUN_PATH or b"\0" in raw else raw.replace(b"@", b"\0", 1)


def _send(address: bytes, message: bytes) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
            # A manager that does not read must not stop the main loop.
            end.setblocking(False)
            end.sendto(message, address)
    except OSError:
        return False
    return True


def watchdog_interval_s(
    environ: Mapping[str, str] = os.environ, pid: int | None = None
) -> float | None:
    """Return within how many seconds to say ``notify(watchdog=True)``; None: no watchdog.

    Say it twice as often, as sd_watchdog_enabled(3) advises: later than that the process is killed.

    Args:
        environ: Where ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up.
        pid: The process that is meant to be watched, by default this one.
    """
    meant = environ.get("WATCHDOG_PID")
    if meant is not None and _number(meant) != (os.getpid() if pid is None else pid):
        return None
    usec = _number(environ.get("WATCHDOG_USEC", ""))
    return usec / 1e6 if usec else None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
