# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: what it loads to, and how each kind of bad input is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.daemon.config import (
    CONFIG,
    Config,
    ControlSettings,
    LogSettings,
    ResponseSettings,
    Scope,
    ScopeKind,
    TlsSettings,
)
from agentwall.daemon.config_load import MAX_CONFIG_BYTES, load_config, parse_config
from agentwall.daemon.inside_state import TlsUse
from agentwall.errors import PolicyError
from agentwall.flow.origin import Runtime

FULL = """\
# Every key.
version: 1
policies: /srv/policies/
signatures: [/srv/signatures]
scopes:
  - {cgroup: /agentwall.slice, kind: owned, default: rl-rollout, policies: [rl-rollout, rl-eval]}
  - cgroup: /system.slice/
    kind: shared
    include: [/system.slice/rollout-*.service, /**/sandbox]
    exclude: ["/system.slice/*/init"]
runtimes: {docker: /run/docker.sock, cri-o: /run/crio/crio.sock}
log:
  path: /srv/log/events.jsonl
  max_bytes: 1GiB
  keep: 3
  group: adm
  journal: true
  flows: false
control: {socket: /srv/control.sock, readers: users, operators: staff}
metrics: {listen: "0.0.0.0:9477", allow_remote: true}
response:
  command: [/bin/page, --high, "1"]
  command_timeout_s: 5
  per_minute: 0
  snapshots: /srv/snapshots
tls: {inspect: require, max_libraries: 7}
watch: false
state: /run/x
"""


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_config(text.encode(), "c.yaml")
    return [str(error).removeprefix("c.yaml:") for error in caught.value.errors]


def parse(text: str) -> Config:
    return parse_config(f"version: 1\n{text}".encode(), "c.yaml")


def test_every_key(tmp_path):
    """Every key arrives, and paths in their one form."""
    path = tmp_path / "c.yaml"
    path.write_text(FULL)

    assert load_config(path) == Config(
        policies=Path("/srv/policies"),
        signatures=("/srv/signatures",),
        scopes=(
            Scope(
                cgroup="/agentwall.slice",
                kind=ScopeKind.OWNED,
                default="rl-rollout",
                policies=("rl-rollout", "rl-eval"),
            ),
            Scope(
                cgroup="/system.slice",
                kind=ScopeKind.SHARED,
                include=("/system.slice/rollout-*.service", "/**/sandbox"),
                exclude=("/system.slice/*/init",),
            ),
        ),
        runtimes={Runtime.DOCKER: "/run/docker.sock", Runtime.CRI_O: "/run/crio/crio.sock"},
        log=LogSettings(
            path=Path("/srv/log/events.jsonl"),
            max_bytes=1 << 30,
            keep=3,
            group="adm",
            journal=True,
            flows=False,
        ),
        control=ControlSettings(
            socket=Path("/srv/control.sock"), readers="users", operators="staff"
        ),
        metrics="0.0.0.0:9477",
        response=ResponseSettings(
            command=("/bin/page", "--high", "1"),
            command_timeout_s=5.0,
            per_minute=0,
            snapshots=Path("/srv/snapshots"),
        ),
        tls=TlsSettings(inspect=TlsUse.REQUIRE, max_libraries=7),
        watch=False,
        state=Path("/run/x"),
        files=(str(path),),
    )


def test_least():
    """A file with the version alone means the defaults."""
    config = parse("")

    assert config == Config(files=("c.yaml",))
    assert config.scopes[0].default == "default-deny"


@pytest.mark.parametrize(
    "section", ["log: {}", "control: {}", "response: {}", "runtimes: {}", "tls: {}"]
)
def test_empty_sections(section):
    """An empty map changes nothing."""
    assert parse(section) == parse("")


@pytest.mark.parametrize("spelled", ["off", "'off'", "Off", "false"])
def test_off_is_a_word(spelled):
    """A plain off means off, though YAML reads it as false."""
    found = parse(f"tls: {{inspect: {spelled}}}")

    assert found.tls.inspect is TlsUse.OFF


def test_missing_file(tmp_path):
    """A missing file is an error where it was asked for, and the defaults where it was not."""
    missing = tmp_path / "c.yaml"
    with pytest.raises(PolicyError, match=f"^{missing}:1:1: cannot be read: no such file"):
        load_config(missing)
    with pytest.raises(PolicyError, match="no such file"):
        load_config(missing / "x", must_exist=True)

    assert load_config(missing, must_exist=False) == Config()


@pytest.mark.skipif(CONFIG.exists(), reason=f"{CONFIG} is there")
def test_missing_default_file():
    """At the default path the file may be missing, unless it is said that it must not."""
    assert load_config() == Config()
    with pytest.raises(PolicyError, match="no such file"):
        load_config(CONFIG, must_exist=True)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622, 0o777])
def test_writable_by_others(tmp_path, mode):
    """A file that others may change is refused: it names a command that runs as root."""
    path = tmp_path / "c.yaml"
    path.write_text("version: 1\n")
    path.chmod(mode)

    with pytest.raises(PolicyError, match=f"only root may change, got .* mode {mode:04o}"):
        load_config(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a file away")
def test_owned_by_another(tmp_path):
    """A file of another user is refused."""
    path = tmp_path / "c.yaml"
    path.write_text("version: 1\n")
    os.chown(path, 65534, 65534)

    with pytest.raises(PolicyError, match="only root may change, got one of user 65534"):
        load_config(path)


def test_not_a_file(tmp_path):
    """A FIFO does not block, a directory and a file too large are named."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    for name, expected in (
        ("fifo", "a regular file"),
        ("large", "at most 1 MiB"),
        ("", "is a directory"),
    ):
        with pytest.raises(PolicyError, match=expected):
            load_config(tmp_path / name)


def test_all_at_once():
    """One look shows everything that is wrong, in the order of the file."""
    text = """\
version: 2
scopes:
  - {cgroup: /a, kind: shared, defalt: x}
  - {cgroup: /a/b, kind: owned, policies: x}
logs: {}
control: [x]
watch: 1
"""

    assert problems(text) == [
        "1:10: version: expected 1, got 2",
        "3:32: scopes[0].defalt: unknown key; did you mean default?",
        "4:14: scopes[1].cgroup: expected a scope apart from the others, got '/a/b', which lies "
        "within '/a' on line 3",
        "4:43: scopes[1].policies: expected a list, got 'x'",
        "5:1: logs: unknown key; did you mean log?",
        "6:10: control: expected a map, got a list",
        "7:8: watch: expected true or false, got 1",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: expected a map, got an empty file"),
        ("watch: true", "1:1: version: expected a value, got nothing"),
        ("version: 1\nversion: 1", "2:1: version: duplicate key; the first one is on line 1"),
        ("version: 1\nversoin: 1", "2:1: versoin: unknown key; did you mean version?"),
        ("version: 1\nlog: [", "expected YAML"),
        ("version: 1\nscopes: []", "2:9: scopes: expected at least one entry"),
        ("version: 1\nscopes: [{kind: owned}]", "2:10: scopes[0].cgroup: expected a value"),
        ("version: 1\nscopes: [{cgroup: /a}]", "2:10: scopes[0].kind: expected a value"),
    ],
)
def test_broken_files(text, expected):
    """A file that is none, or lacks what it must have, is refused with a place."""
    assert expected in problems(text)[0]


@pytest.mark.parametrize("listen", ["127.0.0.1:9477", "127.1.2.3:1", "[::1]:9477", "0.0.0.0:80"])
def test_metrics(listen):
    """Loopback is taken as it is, anything else where it is permitted."""
    more = "" if listen.startswith(("127.", "[::1]")) else ", allow_remote: true"

    assert parse(f"metrics: {{listen: '{listen}'{more}}}").metrics == listen


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("'0.0.0.0:9477'", "expected a loopback address, got '0.0.0.0:9477'"),
        ("'10.0.0.1:9477'", "allow_remote: true permits it"),
        ("'[::]:9477'", "expected a loopback address, got '[::]:9477'"),
        ("'localhost:9477'", "expected an address and a port such as 127.0.0.1:9477"),
        ("'127.0.0.1'", "expected an address and a port"),
        ("'127.0.0.1:0'", "expected an address and a port"),
        ("'127.0.0.1:65536'", "expected an address and a port"),
        ("'udp/127.0.0.1:53'", "expected an address and a port"),
        ("9477", "expected an address and a port"),
        ("null", "expected an address and a port"),
    ],
)
def test_metrics_refused(listen, expected):
    """What is no address with a port is refused, and so is what other hosts reach."""
    (problem,) = problems(f"version: 1\nmetrics: {{listen: {listen}}}")

    assert problem.startswith(("2:11: metrics.listen: ", "2:19: metrics.listen: "))
    assert expected in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("policies: etc/policies", "policies: expected an absolute path, got 'etc/policies'"),
        ("policies: /", "policies: expected an absolute path below '/', got '/'"),
        ("policies: ''", "policies: expected an absolute path, got ''"),
        ("state: /run/../etc", "state: expected an absolute path without empty names"),
        ("signatures: [x]", "signatures[0]: expected an absolute path, got 'x'"),
        ("log: {path: x.jsonl}", "log.path: expected an absolute path, got 'x.jsonl'"),
        ("log: {max_bytes: 1}", "log.max_bytes: expected 64KiB-1024GiB, got 1"),
        ("log: {max_bytes: 1025GiB}", "log.max_bytes: expected 64KiB-1024GiB, got '1025GiB'"),
        ("log: {max_bytes: 256MB}", "expected bytes, or a size such as 256MiB, got '256MB'"),
        ("log: {max_bytes: true}", "expected bytes, or a size such as 256MiB, got true"),
        ("log: {keep: -1}", "log.keep: expected "),
        ("log: {keep: 1001}", "log.keep: expected 0-1000 files, got 1001"),
        ("log: {group: 'a:b'}", "log.group: expected the name of a group, got 'a:b'"),
        ("log: {group: 0}", "log.group: expected the name of a group, got 0"),
        ("log: {flows: 'yes'}", "log.flows: expected true or false, got 'yes'"),
        ("control: {socket: /" + "x" * 107 + "}", "expected at most 107 bytes for a socket"),
        ("control: {operator: x}", "control.operator: unknown key; did you mean operators?"),
        ("control: {readers: null}", "control.readers: expected the name of a group, got nothing"),
        ("metrics: null", "metrics: expected a map, got nothing"),
        ("scopes: null", "scopes: expected a list, got nothing"),
        ("metrics: {}", "metrics.listen: expected a value, got nothing"),
        ("runtimes: {docker: ''}", "runtimes.docker: expected an absolute path, got ''"),
        ("runtimes: {dokcer: /x}", "runtimes.dokcer: unknown key; did you mean docker?"),
        ("response: {command: page}", "response.command: expected a list, got 'page'"),
        ("response: {command: [page]}", "response.command: expected a program by its absolute"),
        ("response: {command: ['']}", "response.command: expected a program by its absolute path"),
        ("response: {command: [/x, 1]}", "response.command[1]: expected text (quote it), got 1"),
        ("response: {command_timeout_s: 601}", "expected 1-600 seconds, got 601"),
        ("response: {per_minute: true}", "expected 0-10000 a minute, got true"),
        ("tls: {inspect: on}", "tls.inspect: expected auto, off or require, got true"),
        ("tls: {inspect: wire}", "tls.inspect: expected auto, off or require, got 'wire'"),
        ("tls: {max_libraries: 0}", "tls.max_libraries: expected 1-1024 libraries, got 0"),
        ("tls: {max_libraries: 1025}", "expected 1-1024 libraries, got 1025"),
        ("tls: {max: 3}", "tls.max: unknown key"),
    ],
)
def test_values_refused(text, expected):
    """Every kind of wrong value is refused with its key and what is expected."""
    found = problems(f"version: 1\n{text}")

    assert len(found) == 1
    assert expected in found[0]


@given(st.binary(max_size=200))
def test_any_bytes(raw):
    """Whatever the file holds, it loads or is refused with a place."""
    places = []
    try:
        parse_config(raw, "c.yaml")
    except PolicyError as err:
        places = [error.where for error in err.errors]

    assert all(place.path == "c.yaml" and place.line >= 1 for place in places)
