# SPDX-License-Identifier: Apache-2.0
"""nginx with TLS on the lab's far side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.lab import Lab
from rig.process import running
from rig.scratch import scratch
from rig.tls import make_certificate

# One process, which also is the worker: nothing is left when it ends.
_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  log_format access '$remote_addr $ssl_protocol $host $request_method $uri $status $request_length';
  access_log {directory}/access.log access;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen {address}:443 ssl;
    server_name {names};
    ssl_certificate {chain};
    ssl_certificate_key {key};
    root {directory}/root;
    default_type application/json;
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServer:
    """A running nginx."""

    address: str
    name: str
    authority: Path
    """The certificate a client must trust."""
    access_log: Path

    def requests(self) -> list[str]:
        """Return one line a request: peer, TLS version, host, method, path, status, bytes."""
        return self.access_log.read_text().splitlines() if self.access_log.exists() else []

    def forget(self) -> None:
        """Empty the log; nginx appends to it."""
        self.access_log.write_text("")


@contextmanager
def web_server(
    lab: Lab, address: str, *, name: str, files: dict[str, str], others: Sequence[str] = ()
) -> Iterator[WebServer]:
    """Serve *files* (path -> content) over TLS as *name* and *others* at *address*, port 443."""
    with scratch("nginx") as directory:
        for path, content in files.items():
            target = directory / "root" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        # nginx reads files as a user of its own even when root started it.
        for entry in (directory / "root").rglob("*"):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        certificate = make_certificate(directory, [name, *others], [address])
        configuration = directory / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                directory=directory,
                address=address,
                names=" ".join((name, *others)),
                chain=certificate.chain,
                key=certificate.key,
            )
        )
        server = WebServer(
            address=address,
            name=name,
            authority=certificate.authority,
            access_log=directory / "access.log",
        )
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        command = lab.far_command(nginx, "-p", directory, "-c", configuration)
        with running(command, log=directory / "log", ready=lambda: lab.far.listens(443)):
            yield server
