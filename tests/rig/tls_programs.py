# SPDX-License-Identifier: Apache-2.0
"""Programs for the clients of rig.tls_clients: built or fetched, or the reason why they are not.

Built ones are kept below build/tls, named after source and options. Debian's own Node is what `make
clients` fetched, or the machine's.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rig.process import run_checked
from rig.tree import ROOT

CLIENTS = ROOT / "tests" / "clients"
NODE_MODULES = ROOT / "build" / "clients" / "node_modules"
DEBIAN_NODE = ROOT / "build" / "clients" / "debian-node"
"""Debian's packages of Node, unpacked."""
BUILT = ROOT / "build" / "tls"
"""Where :func:`compiled` keeps what it made."""
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_SHOW_LIBRARY = (
    "import ssl, re; print(next(x.split()[-1] for x in open('/proc/self/maps') if 'libssl' in x))"
)


def compiled(source: Path, *options: str) -> Path:
    """Return the program that gcc makes of *source* with *options*, which come after it."""
    key = hashlib.sha256(source.read_bytes() + "\0".join(options).encode()).hexdigest()[:16]
    program = BUILT / f"{source.stem}-{key}"
    if not program.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        # Tests that run side by side may each make it; the last to finish puts it there.
        made = BUILT / f"{program.name}.{os.getpid()}"
        run_checked("gcc", "-O1", "-o", made, source, *options)
        made.replace(program)
    return program


def openssl_client(*, static: bool) -> Path:
    """Return tests/clients/tls_speak.c as a program."""
    options = ("-static",) if static else ()
    return compiled(CLIENTS / "tls_speak.c", *options, "-lssl", "-lcrypto", "-lpthread")


@functools.cache
def missing_compiler(*, static: bool) -> str | None:
    """Return why tests/clients/tls_speak.c cannot be built, or None."""
    if shutil.which("gcc") is None:
        return "no gcc here"
    try:
        openssl_client(static=static)
    except RuntimeError as err:
        return f"OpenSSL's headers or libraries are missing: {err}"
    return None


def curl_over_gnutls() -> Path:
    """Return tests/clients/curl_gnutls.c as a program."""
    return compiled(CLIENTS / "curl_gnutls.c", str(_library("libcurl-gnutls.so.4")))


def copy_libraries(directory: Path) -> list[Path]:
    """Copy this machine's OpenSSL, GnuTLS and NSS, as far as it has them, to *directory*.

    Uprobes go by file: those on such a copy meet nobody but who runs :func:`with_libraries`.
    """
    found = [_library(name) for name in ("libssl.so.3", "libgnutls.so.30", "libssl3.so")]
    return [Path(shutil.copyfile(path, directory / path.name)) for path in found if path]


def with_libraries(directory: Path, command: Sequence[str]) -> list[str]:
    """Return *command* as run with the libraries of *directory* before the system's."""
    return ["/usr/bin/env", f"LD_LIBRARY_PATH={directory}", *command]


def missing_curl_over_gnutls() -> str | None:
    """Return why tests/clients/curl_gnutls.c cannot be built, or None."""
    if shutil.which("gcc") is None:
        return "no gcc here"
    return None if _library("libcurl-gnutls.so.4") else "no libcurl-gnutls here"


@functools.cache
def _library(name: str) -> Path | None:
    listed = run_checked("/sbin/ldconfig", "-p")
    paths = [line.split()[-1] for line in listed.splitlines() if line.split()[:1] == [name]]
    return Path(paths[0]) if paths else None


@functools.cache
def same_library(first: str, second: str) -> str | None:
    """Return a sentence if both interpreters of Python map one libssl, None if they do not."""
    paths = [run_checked(each, "-c", _SHOW_LIBRARY).strip() for each in (first, second)]
    return f"{second} maps {paths[1]} as {first} does" if paths[0] == paths[1] else None


def node_is_shared() -> bool:
    """Say whether this machine's Node links the system's OpenSSL, as Debian's own does."""
    node = shutil.which("node")
    return node is not None and "libssl.so" in _linked(node)


@functools.cache
def _linked(program: str, libraries: str | None = None) -> str:
    environment = os.environ | ({"LD_LIBRARY_PATH": libraries} if libraries else {})
    words = ["ldd", program]
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, check=False
    ).stdout


def _debian_libraries() -> str:
    found = next(iter(DEBIAN_NODE.glob("usr/lib/*/libnode.so.*")), None)
    return str(found.parent) if found else ""


def debian_node() -> list[str]:
    """Return the words before a script that run Debian's Node, with the system's OpenSSL."""
    return with_debian_share(laid_debian_node())


def laid_debian_node() -> list[str]:
    """Return the same as it runs where :func:`with_debian_share` has run it, or what runs it."""
    if node_is_shared():
        return [str(shutil.which("node"))]
    libraries = f"${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}{_debian_libraries()}"
    run = f'LD_LIBRARY_PATH={libraries} exec {DEBIAN_NODE}/usr/bin/node "$@"'
    return ["/bin/sh", "-c", run, "node"]


def with_debian_share(command: Sequence[str]) -> list[str]:
    """Return *command* as run in a mount namespace that has what Debian's Node reads of itself.

    Who runs it needs CAP_SYS_ADMIN.
    """
    if missing_debian_node() or node_is_shared():
        return [*command]
    # It reads parts of itself from /usr/share/nodejs, by that name.
    share = DEBIAN_NODE / "usr/share"
    lay = f"mount -t overlay -o lowerdir={share}:/usr/share overlay /usr/share"
    return ["unshare", "--mount", "--", "/bin/sh", "-c", f'{lay} && exec "$@"', "sh", *command]


def missing_debian_node() -> str | None:
    """Return why Debian's Node cannot run here, or None."""
    if node_is_shared():
        return None
    program = DEBIAN_NODE / "usr/bin/node"
    if not program.exists():
        return "no build/clients/debian-node: make clients fetches it where Debian's are reachable"
    linked = _linked(str(program), _debian_libraries())
    absent = [line.split()[0] for line in linked.splitlines() if "not found" in line]
    if absent:
        return f"Debian's node lacks {', '.join(absent)} here"
    return None if "libssl.so" in linked else "Debian's node does not link libssl here"


def missing_npm_clients() -> str | None:
    """Return why the clients of tests/clients/package.json cannot run here, or None."""
    if shutil.which("node") is None:
        return "no node here"
    return None if NODE_MODULES.is_dir() else "no build/clients: make clients fetches it"


def docker() -> str:
    """Return Docker's client, a program of Go's with TLS of its own."""
    return shutil.which("docker") or "docker"


def missing_docker() -> str | None:
    """Return why Docker's client cannot run here, or None."""
    if shutil.which("docker") is None:
        return "no docker here"
    return None if Path(AUTHORITIES).exists() else f"no {AUTHORITIES} here"


@functools.cache
def _configurations() -> Path:
    directory = tempfile.mkdtemp(prefix="agentwall-docker-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def docker_configuration(document: dict[str, object]) -> Path:
    """Return a directory with a configuration of Docker's client, gone when this process ends."""
    text = json.dumps(document)
    directory = _configurations() / hashlib.sha256(text.encode()).hexdigest()[:16]
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(text)
    return directory
