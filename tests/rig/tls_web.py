# SPDX-License-Identifier: Apache-2.0
"""nginx with TLS that has what rig.tls_benign asks for, and clients that ask for all of it.

Asked by three programs over two libraries: Python's http.client and curl (OpenSSL), wget (GnuTLS).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rig.namespace import Namespace
from rig.process import running
from rig.scratch import scratch
from rig.tls import make_certificate
from rig.tls_benign import Request, benign_files
from rig.tls_clients import CLIENTS, PYTHON

QUICK, MANY = 500, 10_000
"""How many requests a usual test makes, and a thorough one."""
NAME = "hub.example.com"
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
"""Runs a command line where the clients are to be."""
_BATCH = 250
_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 100000;
  types {{ text/html html; application/octet-stream safetensors; }}
  default_type application/json;
  server {{
    listen {listen} ssl;
    server_name {name};
    ssl_certificate {chain};
    ssl_certificate_key {key};
    ssl_protocols {protocols};
    root {directory}/root;
    # A file answers a POST as it does a GET.
    error_page 405 =200 $uri;
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenignServer:
    """A running nginx."""

    address: str
    port: int
    authority: Path
    """The certificate a client must trust."""
    directory: Path
    """For files of this server's clients too; every user may enter."""

    def requests(self) -> int:
        """Return how many requests it has answered and logged, which it does after."""
        log = self.directory / "access.log"
        return log.read_text().count("\n") if log.exists() else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of many requests, by client."""

    asked: dict[str, int]
    answered: dict[str, int]
    """Whole answers with a code of 2xx."""
    errors: list[str]
    """What clients complained of."""

    @property
    def is_complete(self) -> bool:
        """All was answered."""
        return self.asked == self.answered


@contextmanager
def benign_server(
    namespace: Namespace,
    address: str,
    *,
    seed: int = 1,
    port: int = 443,
    protocols: str = "TLSv1.2 TLSv1.3",
    command: Callable[..., list[str]] | None = None,
) -> Iterator[BenignServer]:
    """Serve ``benign_files(seed)`` over TLS as :data:`NAME` at *address*.

    Args:
        namespace: Where it listens.
        address: IPv4 or IPv6.
        seed: Of the files.
        port: Of TCP.
        protocols: nginx' ``ssl_protocols``.
        command: Makes of a command line one that runs in *namespace*; ``namespace.command``
            unless given, ``Lab.far_command`` for a lab's far side.
    """
    with scratch("benign") as directory:
        for path, content in benign_files(seed).items():
            target = directory / "root" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        certificate = make_certificate(directory, [NAME], [address])
        # nginx reads files as a user of its own even when root started it.
        for entry in (directory / "root", *(directory / "root").rglob("*")):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        configuration = directory / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                directory=directory,
                listen=f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
                name=NAME,
                chain=certificate.chain,
                key=certificate.key,
                protocols=protocols,
            )
        )
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        words = (command or namespace.command)(nginx, "-p", directory, "-c", configuration)
        server = BenignServer(
            address=address, port=port, authority=certificate.authority, directory=directory
        )
        with running(words, log=directory / "log", ready=lambda: namespace.listens(port)):
            yield server


def ask_all(server: BenignServer, requests: Sequence[Request], run: Run) -> Load:
    """Ask *server* for all of *requests* with several clients, one after the other.

    Two in ten go to curl, one to wget if it is a GET, the others to Python; in the order given.
    """
    shares: dict[str, list[Request]] = {"python": [], "curl": [], "wget": []}
    for index, request in enumerate(requests):
        place = index % 10
        is_bare = request.method == "GET" and "Range" not in dict(request.headers)
        chosen = "curl" if place < 2 else "wget" if place == 2 and is_bare else "python"
        shares[chosen].append(request)
    answered, errors = dict.fromkeys(shares, 0), []
    for name, share in shares.items():
        for begin in range(0, len(share), _BATCH):
            words = _ASK[name](server, share[begin : begin + _BATCH])
            done = run(words)
            answered[name] += _COUNT[name](done)
            # wget writes there what it has got, too.
            errors += [done.stderr] if done.returncode else []
    asked = {name: len(share) for name, share in shares.items()}
    return Load(asked=asked, answered=answered, errors=errors)


def _ask_with_python(server: BenignServer, share: Sequence[Request]) -> list[str]:
    path = server.directory / "requests.json"
    path.write_text(json.dumps([asdict(each) for each in share]))
    words = [server.address, str(server.port), NAME, str(server.authority), str(path)]
    return [PYTHON, "-I", "-S", str(CLIENTS / "tls_load.py"), *words]


def _ask_with_curl(server: BenignServer, share: Sequence[Request]) -> list[str]:
    host = f"[{server.address}]" if ":" in server.address else server.address
    common = [
        ("connect-to", f"::{host}:{server.port}"),
        ("cacert", str(server.authority)),
        ("output", "/dev/null"),
        ("write-out", "%{http_code}\n"),
    ]
    sections = []
    for each in share:
        options = [*common, ("url", f"https://{NAME}:{server.port}{each.path}")]
        options += [("header", f"{name}: {value}") for name, value in each.headers]
        options += [("header", "Connection: close")] if each.closes else []
        options += [("data-binary", each.body)] if each.body else []
        lines = [f"{key} = {_quoted(value)}\n" for key, value in options]
        sections.append("".join(("silent\nshow-error\n", *lines)))
    path = server.directory / "curl.conf"
    path.write_text("next\n".join(sections))
    return ["/usr/bin/curl", "--disable", "--config", str(path)]


def _quoted(value: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        value = value.replace(plain, escaped)
    return f'"{value}"'


def _ask_with_wget(server: BenignServer, share: Sequence[Request]) -> list[str]:
    # A connection each.
    host = f"[{server.address}]" if ":" in server.address else server.address
    path = server.directory / "urls.txt"
    path.write_text("".join(f"https://{host}:{server.port}{each.path}\n" for each in share))
    words = ["--no-config", "--no-verbose", "--no-hsts", "--tries=1", "--output-document=/dev/null"]
    words += ["--no-http-keep-alive", f"--ca-certificate={server.authority}"]
    return ["/usr/bin/wget", *words, f"--input-file={path}"]


_ASK = {"python": _ask_with_python, "curl": _ask_with_curl, "wget": _ask_with_wget}
_COUNT: dict[str, Callable[[subprocess.CompletedProcess[str]], int]] = {
    "python": lambda done: int(done.stdout or 0),
    "curl": lambda done: sum(line.startswith("2") for line in done.stdout.splitlines()),
    # A line for each file that it has whole: date, URL, size, what it wrote to.
    "wget": lambda done: done.stderr.count(' -> "'),
}
