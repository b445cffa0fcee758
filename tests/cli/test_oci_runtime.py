# SPDX-License-Identifier: Apache-2.0
"""``agentwall-runc``: runc's command line, and hooks in the bundle of whatever it makes."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwall.cli.oci_runtime import (
    Invocation,
    UsageError,
    add_hooks,
    find_runc,
    hook_command,
    prepare,
)

HOOK = ["/opt/agentwall-hook", "--x"]
FIRST = {"path": HOOK[0], "args": HOOK, "timeout": 15}
LAST = {"path": HOOK[0], "args": [*HOOK, "--release"], "timeout": 15}
SPY = """#!/bin/sh
printf '%s\\n' "$@" > "$SPY_OUT"
grep SigIgn /proc/self/status >> "$SPY_OUT"
exit 7
"""


@pytest.mark.parametrize(
    ("words", "command", "bundle"),
    [
        ([], None, "."),
        (["--version"], None, "."),
        (["create", "c1"], "create", "."),
        (["create", "--bundle", "/b", "c1"], "create", "/b"),
        (["create", "--bundle=/b", "c1"], "create", "/b"),
        (["run", "-b", "/b", "--detach", "c1"], "run", "/b"),
        (["restore", "-b=/b", "c1"], "restore", "/b"),
        (["create", "--bundle", "/a", "--bundle", "/b", "c1"], "create", "/b"),
        (["--root", "/create", "--log=/l", "--debug", "delete", "create"], "delete", "."),
        (
            ["--log", "/l", "--log-format", "json", "--systemd-cgroup", "create", "c1"],
            "create",
            ".",
        ),
        (["--rootless", "auto", "exec", "c1", "run"], "exec", "."),
        (["--unheard-of", "x", "state", "c1"], "x", "."),
    ],
)
def test_command_line(words, command, bundle):
    """The command and the bundle are found among runc's options, in both of their forms."""
    found = Invocation(words)

    assert (found.command, found.bundle, found.arguments) == (command, bundle, words)


@pytest.mark.parametrize("words", [["--unheard-of", "create", "c1"], ["--new", "x", "run", "c1"]])
def test_unknown_option(words):
    """Where it cannot be told whether a container is made, none is."""
    with pytest.raises(UsageError, match="expected an option of runc that agentwall knows"):
        Invocation(words)


def test_own_options():
    """Options for the hook are kept from runc."""
    found = Invocation(
        ["--agentwall-socket=/s", "--debug", "--agentwall-allow-unwatched", "create", "c1"]
    )

    assert found.arguments == ["--debug", "create", "c1"]
    assert hook_command(found)[-2:] == ["--socket=/s", "--allow-unwatched"]
    assert hook_command(found)[:2] == [sys.executable, "-I"]


@pytest.mark.parametrize("word", ["--agentwall-socket=s", "--agentwall-socket", "--agentwall-x"])
def test_own_options_mistyped(word):
    """One that is not known is refused: it was meant to matter."""
    with pytest.raises(UsageError, match=r"expected one of --agentwall-socket=/PATH"):
        Invocation([word, "state", "c1"])


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hooks": None},
        {"hooks": {}},
        {"hooks": {"createRuntime": None, "poststop": []}},
    ],
)
def test_hooks(config):
    """Wherever there are none, both are put in; a second time nothing changes."""
    assert add_hooks(config, HOOK) is True
    assert config["hooks"] == {"createRuntime": [FIRST], "poststop": [LAST]}
    assert add_hooks(config, HOOK) is False
    assert config["hooks"] == {"createRuntime": [FIRST], "poststop": [LAST]}


def test_other_hooks():
    """Ours come last: the network is up by then. Others stay as they are."""
    other = {"path": "/cni", "env": ["A=b"]}
    config = {"hooks": {"prestart": [other], "createRuntime": [other]}}
    add_hooks(config, HOOK)

    assert config["hooks"]["createRuntime"] == [other, FIRST]
    assert config["hooks"]["prestart"] == [other]


@pytest.mark.parametrize(
    "config", [[], None, 7, {"hooks": 7}, {"hooks": []}, {"hooks": {"createRuntime": {}}}]
)
def test_odd_config(config):
    """What is no configuration is refused rather than started without hooks."""
    with pytest.raises(UsageError, match=r"config\.json: "):
        add_hooks(config, HOOK)


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda key: key != "hooks"),
        VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(), VALUES, max_size=3),
        max_size=5,
    )
)
def test_unknown_fields(config):
    """Everything else stays, whatever it is."""
    before = json.loads(json.dumps(config))
    add_hooks(config, HOOK)
    after = json.loads(json.dumps(config))
    del after["hooks"]

    assert after == before


def test_prepared(tmp_path):
    """The file is replaced as a whole, with its owner and mode, and nothing is left beside it."""
    path = tmp_path / "config.json"
    path.write_text('{"ociVersion": "1.0.2", "x": {"y": 18446744073709551615}}')
    path.chmod(0o640)
    os.chown(path, 12345, 54321)
    prepare(str(tmp_path), HOOK)
    first = path.stat()
    prepare(str(tmp_path), HOOK)

    written = json.loads(path.read_text())
    assert written["hooks"]["createRuntime"] == [FIRST]
    assert written["x"] == {"y": 18446744073709551615}
    assert (stat.S_IMODE(first.st_mode), first.st_uid, first.st_gid) == (0o640, 12345, 54321)
    # Nothing to add: nothing written.
    assert path.stat().st_ino == first.st_ino
    assert os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]", None])
def test_unreadable(tmp_path, content):
    """A bundle that cannot be read is an error with its path, and stays as it is."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json"):
        prepare(str(tmp_path), HOOK)

    assert os.listdir(tmp_path) == ([] if content is None else ["config.json"])


def test_a_runtime_by_name(tmp_path, monkeypatch):
    """The real runtime is runc of a system's directory, or what the environment names."""
    other = tmp_path / "crun"
    other.write_text("")
    monkeypatch.setenv("AGENTWALL_RUNC", str(other))
    with pytest.raises(UsageError, match="AGENTWALL_RUNC names it"):
        find_runc()
    other.chmod(0o755)

    assert find_runc() == str(other)
    monkeypatch.setenv("AGENTWALL_RUNC", "crun")
    with pytest.raises(UsageError, match="expected it at crun"):
        find_runc()


def test_not_itself(tmp_path, monkeypatch):
    """Put in runc's place, it does not call itself for ever."""
    own = tmp_path / "runc"
    own.write_text("")
    own.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(own)])
    monkeypatch.setenv("AGENTWALL_RUNC", str(own))

    with pytest.raises(UsageError):
        find_runc()


@pytest.fixture
def spied(tmp_path):
    """A function that runs agentwall-runc over a program that notes how it was called."""
    spy = tmp_path / "spy"
    spy.write_text(SPY)
    spy.chmod(0o755)

    def run(*words: str, path: str = str(spy)) -> tuple[int, str, list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "agentwall.cli.oci_runtime", *words],
            env={**os.environ, "AGENTWALL_RUNC": path, "SPY_OUT": str(tmp_path / "out")},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        out = tmp_path / "out"
        return done.returncode, done.stderr, out.read_text().splitlines() if out.exists() else []

    return run


@pytest.mark.parametrize("words", [("--version",), ("--root", "/r", "state", "c1"), ("kill", "c")])
def test_passes_through(spied, words):
    """Other commands are runc's own, word by word, exit code and all."""
    code, said, seen = spied(*words)

    assert (code, said, seen[:-1]) == (7, "", list(words))


def test_signals(spied):
    """What Python ignores is not ignored in containers."""
    mask = int(spied("--version")[2][-1].split()[1], 16)

    assert not mask & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_made(spied, tmp_path):
    """Before runc sees a bundle, the hooks are in it, with our options."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text('{"ociVersion": "1.0.2"}')
    words = ("--log", "/l", "create", "--bundle", str(bundle), "c1")
    code, _, seen = spied("--agentwall-socket=/s", *words)
    hooks = json.loads((bundle / "config.json").read_text())["hooks"]

    assert (code, seen[:-1]) == (7, list(words))
    assert hooks["createRuntime"][0]["args"][-1] == "--socket=/s"
    assert hooks["poststop"][0]["args"][-1] == "--release"


def test_help(spied):
    """To ask for help is not to make a container: there need not be a bundle."""
    assert spied("create", "--help")[0] == 7


@pytest.mark.parametrize(
    ("words", "path", "said"),
    [
        (("create", "--bundle", "/nonexistent", "c1"), None, "/nonexistent/config.json: "),
        (("state", "c1"), "/nonexistent/runc", "runc: expected it at /nonexistent/runc"),
        (("--unheard-of", "run", "c1"), None, "--unheard-of: expected an option of runc"),
    ],
)
def test_failures(spied, words, path, said):
    """What goes wrong is one line, exit code 1, and runc is not called."""
    code, text, seen = spied(*words, **({"path": path} if path else {}))

    assert (code, seen) == (1, [])
    assert text.startswith(f"agentwall-runc: {said}")
    assert text.count("\n") == 1
