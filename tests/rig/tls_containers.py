# SPDX-License-Identifier: Apache-2.0
"""Podman containers of a small Debian: their TLS libraries are files of their own.

The image is made of the packages that this machine has installed; its root is an overlay, whose
lower layer holds the libraries. Clients of rig.tls_clients run in it by the command line they
have outside: tests/clients and build/tls are there under the same paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rig import tls_programs as programs
from rig.containers import FOREVER, IMAGE, Container, Engine, podman_engine
from rig.debian_root import write_debian_root
from rig.scratch import scratch
from rig.tls_clients import TLS_CLIENTS, TlsClient

PACKAGES = ("coreutils", "dash", "python3", "openssl", "libssl3", "curl", "wget", "socat")
"""What is in the image, with all that they depend on."""
_PROGRAMS = ("python", "python-asyncio", "openssl", "curl", "wget", "socat", "c-ex", "c-static")


def container_clients() -> tuple[TlsClient, ...]:
    """Return the clients that such a container can run."""
    return tuple(each for each in TLS_CLIENTS if each.name in _PROGRAMS)


@contextmanager
def tls_engine(*options: str) -> Iterator[Engine]:
    """Prepare podman with that image; *options* are those of ``podman_engine``."""
    with podman_engine(*options) as engine, scratch("debian") as directory:
        work = directory / "work"
        work.mkdir()
        write_debian_root(directory / "image.tar", work, *PACKAGES)
        engine.call("import", str(directory / "image.tar"), IMAGE)
        yield engine


@contextmanager
def tls_container(
    engine: Engine, parent: Path, network: Path | None = None, options: Sequence[str] = ()
) -> Iterator[Container]:
    """Run a container of :func:`tls_engine` in which clients can be run; remove it at the end.

    Args:
        engine: Of :func:`tls_engine`.
        parent: A cgroup's directory.
        network: The file that stands for a network namespace; the container has none if not given.
        options: Further words for ``podman run``.
    """
    # Before the container is made, which would lack what is built later.
    programs.openssl_client(static=False)
    words = [*options]
    for place in (programs.CLIENTS, programs.BUILT):
        words += ["--volume", f"{place}:{place}:ro"]
    where = f"ns:{network}" if network else "none"
    with engine.sandbox(parent, *FOREVER, network=where, options=words) as container:
        yield container


def library_in(container: Container, name: str = "libssl.so.3") -> Path:
    """Return the path of a container's library as this mount namespace reaches it."""
    root = Path(f"/proc/{container.pid}/root")
    return next(iter(root.glob(f"usr/lib/*/{name}")))
