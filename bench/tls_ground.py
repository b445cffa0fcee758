# SPDX-License-Identifier: Apache-2.0
"""The far side of what is timed inside TLS, and copies of the libraries that do the near side.

Probes go by file, so whoever is compared loads a copy of OpenSSL of its own: only one of them has
probes, they stay on while others are timed, and nothing else on the machine pays for them. The
servers have a copy too, which nobody probes.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.ground import FAR_ADDRESS, Ground, run
from bench.variants import OTHER_CPU

WEB_PORT, TALK_PORT = 443, 4433
SMALL = "small.json"
LIBRARIES = ("libssl.so.3", "libcrypto.so.3")
_START_S = 60.0
_UNDISTURBED = ("nice", "-n", "-20")
_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000;
  default_type application/json;
  server {{
    listen {address}:{port} ssl;
    ssl_certificate {directory}/server.pem;
    ssl_certificate_key {directory}/server.key;
    root {directory}/root;
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Library:
    """A copy of OpenSSL."""

    directory: Path

    @property
    def file(self) -> Path:
        """What is probed."""
        return self.directory / LIBRARIES[0]

    def used_by(self, *command: str | Path) -> list[str]:
        """Return *command* as run with this copy."""
        return ["env", f"LD_LIBRARY_PATH={self.directory}", *map(str, command)]


def copy_library(directory: Path) -> Library:
    """Copy the OpenSSL of this machine's programs into *directory*, which is made."""
    directory.mkdir()
    found = run("ldd", shutil.which("openssl") or "openssl")
    for name in LIBRARIES:
        (path,) = (line.split()[2] for line in found.splitlines() if line.split()[0] == name)
        shutil.copy(path, directory / name)
    return Library(directory)


@contextmanager
def serving(ground: Ground, talk: Path, directory: Path) -> Iterator[Path]:
    """Have nginx and ``tls_talk serve`` listen at the far address.

    Args:
        ground: Where.
        talk: The program.
        directory: Is made.

    Yields:
        A file with one line a connection of *talk* that asked for nothing: octets it heard.
    """
    directory.mkdir()
    library = copy_library(directory / "library")
    _certify(directory)
    (directory / "root").mkdir()
    (directory / "root" / SMALL).write_text('{"result": "0x12a05f2", "id": 1}\n')
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(directory=directory, address=FAR_ADDRESS, port=WEB_PORT)
    )
    nginx = ("nginx", "-e", "stderr", "-p", directory, "-c", configuration)
    served = (talk, "serve", str(TALK_PORT), directory / "server.pem", directory / "server.key")
    heard = directory / "heard"
    with (
        _running(ground, library, heard, served, TALK_PORT),
        _running(ground, library, directory / "nginx.log", nginx, WEB_PORT),
    ):
        yield heard


@contextmanager
def _running(
    ground: Ground, library: Library, output: Path, command: tuple[str | Path, ...], port: int
) -> Iterator[None]:
    pinned = (*_UNDISTURBED, "taskset", "-c", str(OTHER_CPU))
    with (
        output.open("wb") as said,
        subprocess.Popen(
            ground.outside(*pinned, *library.used_by(*command)), stdout=said, stderr=said
        ) as server,
    ):
        try:
            _await(ground, port, server, output)
            yield
        finally:
            server.terminate()


def _await(ground: Ground, port: int, server: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not run(*ground.outside("ss", "-Hltn", "sport", "=", f":{port}")):
        if server.poll() is not None or time.monotonic() > deadline:
            said = output.read_text(errors="replace")[-500:]
            raise RuntimeError(f"port {port}: not listening after {_START_S} s: {said}")
        time.sleep(0.02)


def _certify(directory: Path) -> None:
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "2", "-subj", f"/CN={FAR_ADDRESS}"),
        *("-addext", f"subjectAltName=IP:{FAR_ADDRESS}"),
        *("-keyout", directory / "server.key", "-out", directory / "server.pem"),
    )
