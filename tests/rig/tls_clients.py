# SPDX-License-Identifier: Apache-2.0
"""Real clients of TLS libraries, in one table: what each needs, and the command line of each.

A client connects, sends what it is given, prints what comes back, and exits with 0 only if the last
message was answered. None checks certificates. They run wherever their command line is run.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rig import tls_programs as programs
from rig.tls_pool import CHAT, MINING, Form
from rig.tree import ROOT

CLIENTS = ROOT / "tests" / "clients"
PYTHON = "/usr/bin/python3"
_SPEAK_PY, _SPEAK_JS = str(CLIENTS / "tls_speak.py"), str(CLIENTS / "tls_speak.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a client is to say, and to whom."""

    host: str
    """An address."""
    port: int
    lines: tuple[str, ...]
    pieces: int
    server_name: str | None

    @property
    def text(self) -> str:
        """The lines as one."""
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def until(self) -> str:
        """What the pool's answer to the last line contains."""
        return f'"id": {json.dumps(json.loads(self.lines[-1])["id"])}'

    @property
    def where(self) -> str:
        """Address and port as URLs have them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def words(self) -> list[str]:
        """The arguments of tests/clients/tls_speak.*."""
        name = self.server_name or ""
        return [self.host, str(self.port), self.until, str(self.pieces), name, self.text]

    def fed(self, *command: str) -> list[str]:
        """Return *command* as spoken through by tests/clients/tls_feed.py."""
        feed = str(CLIENTS / "tls_feed.py")
        words = [self.until, str(self.pieces), self.text]
        return [PYTHON, "-I", "-S", feed, *words, *command]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsClient:
    """One program."""

    name: str
    library: str
    """What encrypts: ``openssl``, ``gnutls``, ``nss``, or ``go``."""
    build: Callable[[Errand], list[str]]
    """The command line."""
    missing: Callable[[], str | None]
    form: Form = Form.LINES
    cuts: bool = True
    """Can send its text in several writes."""
    names: bool = True
    """Can ask for a name in the handshake."""
    shared: bool = True
    """Maps the library as a file of its own; else the program has it inside, or exports it."""
    nests: bool = False
    """Its server must be one of TLS in TLS."""
    laid: Callable[[Errand], list[str]] | None = None
    """The command line inside ``tls_programs.with_debian_share``, where that is another."""

    def available(self) -> str | None:
        """Return why it cannot run here, or None if it can."""
        return self.missing()

    def argv(
        self,
        host: str,
        port: int,
        lines: Sequence[str] | None = None,
        *,
        pieces: int = 1,
        server_name: str | None = None,
        laid: bool = False,
    ) -> list[str]:
        """Return the command line that says *lines* to the address *host*.

        Args:
            host: IPv4 or IPv6.
            port: Of TCP.
            lines: Messages, each with an id of its own, or headers for :attr:`Form.HEADERS`;
                what a miner says unless given.
            pieces: How many writes the text is cut to; more than one only if :attr:`cuts`.
            server_name: What to ask for in the handshake; only if :attr:`names`.
            laid: It is run inside ``tls_programs.with_debian_share``.
        """
        assert self.cuts or pieces == 1
        assert self.names or server_name is None
        said = tuple(lines) if lines is not None else self.mining()
        errand = Errand(host=host, port=port, lines=said, pieces=pieces, server_name=server_name)
        return (self.laid if laid and self.laid else self.build)(errand)

    def mining(self, dialect: str | None = None) -> tuple[str, ...]:
        """Return what a miner says in this form: of *dialect*, or of the first there is."""
        dialects = MINING[self.form]
        return dialects[dialect] if dialect else next(iter(dialects.values()))

    def chat(self) -> tuple[str, ...]:
        """Return what no miner says, in this client's form."""
        return CHAT[self.form]


def _needs(*programs_needed: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        absent = [each for each in programs_needed if shutil.which(each) is None]
        return f"no {', '.join(absent)} here" if absent else None

    return missing


def _python(mode: str, interpreter: str) -> Callable[[Errand], list[str]]:
    return lambda errand: [interpreter, "-I", "-S", _SPEAK_PY, mode, *errand.words()]


def _speak_c(mode: str, *, static: bool = False) -> TlsClient:
    return TlsClient(
        name=f"c-{'static' if static else mode}",
        library="openssl",
        build=lambda errand: [str(programs.openssl_client(static=static)), mode, *errand.words()],
        missing=lambda: programs.missing_compiler(static=static),
        shared=not static,
        nests=mode in ("nested", "chained"),
    )


def _curl(errand: Errand) -> list[str]:
    url, words = f"https://{errand.where}/", ["--silent", "--show-error", "--fail", "--insecure"]
    if errand.server_name:
        host = errand.where.removesuffix(f":{errand.port}")
        words += ["--connect-to", f"::{host}:{errand.port}"]
        url = f"https://{errand.server_name}:{errand.port}/"
    words += ["--header", "Content-Type: application/json", "--data-binary", errand.text]
    return ["/usr/bin/curl", "--disable", *words, url]


def _curl_gnutls(errand: Errand) -> list[str]:
    url = f"https://{errand.where}/"
    return [str(programs.curl_over_gnutls()), url, errand.server_name or "", errand.text]


def _wget(errand: Errand) -> list[str]:
    words = ["--no-config", "--quiet", "--no-check-certificate", "--output-document=-"]
    words += ["--tries=1", "--no-hsts", "--header=Content-Type: application/json"]
    return ["/usr/bin/wget", *words, f"--post-data={errand.text}", f"https://{errand.where}/"]


def _gnutls_cli(errand: Errand) -> list[str]:
    words = ["--insecure", "--port", str(errand.port), "--logfile=/dev/null"]
    words += ["--sni-hostname", errand.server_name] if errand.server_name else ["--disable-sni"]
    return errand.fed("gnutls-cli", *words, errand.host)


def _openssl(errand: Errand) -> list[str]:
    words = ["s_client", "-quiet", "-verify_quiet", "-connect", errand.where]
    words += ["-servername", errand.server_name] if errand.server_name else ["-noservername"]
    return errand.fed("/usr/bin/openssl", *words)


def _tstclnt(errand: Errand) -> list[str]:
    words = ["-D", "-o", "-V", "tls1.2:", "-h", errand.host, "-p", str(errand.port)]
    words += ["-a", errand.server_name] if errand.server_name else []
    return errand.fed("tstclnt", *words)


def _socat(errand: Errand) -> list[str]:
    name = f"snihost={errand.server_name}" if errand.server_name else "nosni=1"
    return errand.fed("socat", "-", f"OPENSSL:{errand.where},verify=0,{name}")


def _node(errand: Errand) -> list[str]:
    return ["node", _SPEAK_JS, *errand.words()]


def _node_debian(errand: Errand) -> list[str]:
    return [*programs.debian_node(), _SPEAK_JS, *errand.words()]


def _laid_node_debian(errand: Errand) -> list[str]:
    return [*programs.laid_debian_node(), _SPEAK_JS, *errand.words()]


def _npm(which: str) -> Callable[[Errand], list[str]]:
    # What they say is their own affair: subscribe, authorize, one share.
    def build(errand: Errand) -> list[str]:
        node = ["node", str(CLIENTS / "mine_tls.js"), which, errand.host, str(errand.port)]
        return ["/usr/bin/env", f"NODE_PATH={programs.NODE_MODULES}", *node]

    return build


def _git(errand: Errand) -> list[str]:
    words = ["-c", "http.sslVerify=false", "-c", "credential.helper="]
    for line in errand.lines:
        words += ["-c", f"http.extraHeader={line}"]
    return ["/usr/bin/git", *words, "ls-remote", f"https://{errand.where}/repository.git"]


def _docker(errand: Errand) -> list[str]:
    headers = dict(line.split(": ", 1) for line in errand.lines)
    directory = programs.docker_configuration({"HttpHeaders": headers})
    words = ["--config", str(directory), "-H", f"tcp://{errand.where}", "--tls"]
    # Without verification, but it wants a file; this one is of no use to it.
    words += ["--tlscacert", programs.AUTHORITIES, "version"]
    return [programs.docker(), *words]


TLS_CLIENTS: tuple[TlsClient, ...] = (
    TlsClient(
        name="python", library="openssl", build=_python("blocking", PYTHON), missing=_needs(PYTHON)
    ),
    TlsClient(
        name="python-asyncio",
        library="openssl",
        build=_python("asyncio", PYTHON),
        missing=_needs(PYTHON),
    ),
    TlsClient(
        name="python-other",
        library="openssl",
        build=_python("blocking", sys.executable),
        missing=lambda: programs.same_library(PYTHON, sys.executable),
    ),
    TlsClient(
        name="curl",
        library="openssl",
        build=_curl,
        missing=_needs("/usr/bin/curl"),
        form=Form.POST,
        cuts=False,
    ),
    TlsClient(
        name="curl-gnutls",
        library="gnutls",
        build=_curl_gnutls,
        missing=programs.missing_curl_over_gnutls,
        form=Form.POST,
        cuts=False,
    ),
    TlsClient(
        name="wget",
        library="gnutls",
        build=_wget,
        missing=_needs("/usr/bin/wget"),
        form=Form.POST,
        cuts=False,
        names=False,
    ),
    TlsClient(name="gnutls-cli", library="gnutls", build=_gnutls_cli, missing=_needs("gnutls-cli")),
    TlsClient(
        name="openssl", library="openssl", build=_openssl, missing=_needs("/usr/bin/openssl")
    ),
    TlsClient(name="tstclnt", library="nss", build=_tstclnt, missing=_needs("tstclnt")),
    TlsClient(name="socat", library="openssl", build=_socat, missing=_needs("socat")),
    TlsClient(
        name="node",
        library="openssl",
        build=_node,
        missing=_needs("node"),
        shared=programs.node_is_shared(),
    ),
    TlsClient(
        name="node-debian",
        library="openssl",
        build=_node_debian,
        laid=_laid_node_debian,
        missing=programs.missing_debian_node,
    ),
    _speak_c("plain"),
    _speak_c("ex"),
    _speak_c("nonblocking"),
    _speak_c("threads"),
    _speak_c("handoff"),
    _speak_c("nested"),
    _speak_c("chained"),
    _speak_c("plain", static=True),
    TlsClient(
        name="git",
        library="gnutls",
        build=_git,
        missing=_needs("/usr/bin/git"),
        form=Form.HEADERS,
        cuts=False,
        names=False,
    ),
    TlsClient(
        name="docker",
        library="go",
        build=_docker,
        missing=programs.missing_docker,
        form=Form.HEADERS,
        cuts=False,
        names=False,
        shared=False,
    ),
    *(
        TlsClient(
            name=f"npm-{which}",
            library="openssl",
            build=_npm(which),
            missing=programs.missing_npm_clients,
            cuts=False,
            names=False,
            shared=programs.node_is_shared(),
        )
        for which in ("stratum-client", "coin-hive")
    ),
)
"""All of them, in no order that matters."""


def client(name: str) -> TlsClient:
    """Return the client of this name."""
    return next(each for each in TLS_CLIENTS if each.name == name)
