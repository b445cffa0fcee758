# SPDX-License-Identifier: Apache-2.0
"""``agentwall-runc``: runc, and every container that it makes is admitted before it runs.

For engines that take a runtime but no hooks, dockerd above all. The command line is runc's; on
``create``, ``run`` and ``restore`` the bundle's config.json gets the hooks first. Then runc takes
this process's place. Options of its own, for the hook: ``--agentwall-socket=PATH``,
``--agentwall-allow-unwatched`` and ``--agentwall-allow-unmatched``.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Sequence

RUNC_VARIABLE = "AGENTWALL_RUNC"
"""Environment variable with the path of the runtime to run, where it is another."""
_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_MAKING = frozenset({"create", "run", "restore"})
_VALUED = frozenset({"log", "log-format", "root", "criu", "rootless"})
"""runc's global options that take a value; in the command's place it would be taken for one."""
_FLAGS = frozenset({"debug", "systemd-cgroup", "help", "h", "version", "v"})
_OWN = "--agentwall-"
_PASSED_ON = ("allow-unwatched", "allow-unmatched")
_MAX_CONFIG_BYTES = 16 << 20
_HOOK_TIMEOUT_S = 15
_MODULE = "agentwall.cli.admission"


class UsageError(Exception):
    """The command line or the bundle is not what runc would take."""


class Invocation:
    """A command line of runc, as far as it matters here."""

    __slots__ = ("arguments", "command", "hook_options", "rest")

    def __init__(self, words: Sequence[str]) -> None:
        """Parse what follows the program's name.

        Raises:
            UsageError: It cannot be told whether a container is going to be made.
        """
        own = [word for word in words if word.startswith(_OWN)]
        self.arguments = [word for word in words if not word.startswith(_OWN)]
        """For runc."""
        self.hook_options = [_hook_option(word) for word in own]
        at = self._command_at()
        self.command = self.arguments[at] if at is not None else None
        self.rest = self.arguments[at + 1 :] if at is not None else []

    def _command_at(self) -> int | None:
        at = 0
        while at < len(self.arguments):
            word = self.arguments[at]
            if not word.startswith("-"):
                return at
            name, separator, _ = word.lstrip("-").partition("=")
            if name not in _VALUED | _FLAGS and _MAKING.intersection(self.arguments[at + 1 :]):
                # Whether the next word is its value or the command, nobody here knows.
                raise UsageError(f"{word}: expected an option of runc that agentwall knows")
            at += 2 if name in _VALUED and not separator else 1
        return None

    @property
    def bundle(self) -> str:
        """The bundle's directory; the last option that names one counts, as for runc."""
        found = "."
        for at, word in enumerate(self.rest):
            name, separator, value = word.partition("=")
            if name in ("--bundle", "-bundle", "-b", "--b"):
                found = value if separator else "".join(self.rest[at + 1 : at + 2])
        return found


def _hook_option(word: str) -> str:
    name = word.removeprefix(_OWN)
    if name in _PASSED_ON or name.startswith("socket=/"):
        return f"--{name}"
    expected = ", ".join(f"{_OWN}{known}" for known in ("socket=/PATH", *_PASSED_ON))
    raise UsageError(f"{word}: expected one of {expected}")


def add_hooks(config: object, hook: Sequence[str]) -> bool:
    """Put the hooks into a bundle's configuration; say whether they were not there yet.

    Last among ``createRuntime``: others set up the network there, and the daemon looks at it.

    Args:
        config: Content of config.json; changed in place.
        hook: The program to run, with its arguments.

    Raises:
        UsageError: It is no such configuration.
    """
    if not isinstance(config, dict):
        raise UsageError("config.json: expected an object")
    hooks = config.get("hooks")
    if hooks is None:
        hooks = config["hooks"] = {}
    added = False
    for name, words in (("createRuntime", hook), ("poststop", (*hook, "--release"))):
        listed = hooks.get(name) if isinstance(hooks, dict) else ()
        if listed is None:
            listed = hooks[name] = []
        if not isinstance(listed, list):
            raise UsageError(f"config.json: hooks.{name}: expected a list")
        entry = {"path": words[0], "args": list(words), "timeout": _HOOK_TIMEOUT_S}
        if entry not in listed:
            listed.append(entry)
            added = True
    return added


def prepare(bundle: str, hook: Sequence[str]) -> None:
    """Put the hooks into the bundle's config.json: all of it, or nothing.

    Raises:
        UsageError: It is not there, or not one.
        OSError: It cannot be written.
    """
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read(_MAX_CONFIG_BYTES + 1)
        if len(raw) > _MAX_CONFIG_BYTES:
            raise UsageError(f"{path}: expected at most {_MAX_CONFIG_BYTES} bytes")
        config = json.loads(raw)
    except (OSError, ValueError, RecursionError) as err:
        raise UsageError(f"{path}: {err}") from err
    if not add_hooks(config, hook):
        return
    draft = os.path.join(bundle, f".config.json.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(config, file)
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def hook_command(invocation: Invocation) -> list[str]:
    """Return the hook: this Python, isolated from its environment, and the module."""
    return [sys.executable, "-I", "-m", _MODULE, *invocation.hook_options]


def find_runc() -> str:
    """Return the path of the real runtime, never of this one.

    Raises:
        UsageError: There is none.
    """
    named = os.environ.get(RUNC_VARIABLE)
    candidates = [named] if named else [f"{directory}/runc" for directory in _DIRECTORIES]
    own = os.path.realpath(sys.argv[0])
    for path in candidates:
        if path.startswith("/") and os.access(path, os.X_OK) and os.path.realpath(path) != own:
            return path
    raise UsageError(f"runc: expected it at {' or '.join(candidates)}; {RUNC_VARIABLE} names it")


def main() -> int:
    """Run as runc would; return only if that fails."""
    try:
        invocation = Invocation(sys.argv[1:])
        runc = find_runc()
        if invocation.command in _MAKING and not _asks_for_help(invocation):
            prepare(invocation.bundle, hook_command(invocation))
        # Python ignores them, and what is ignored stays so across exec, down to the container.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execv(runc, [runc, *invocation.arguments])
    except (UsageError, OSError) as err:
        print(f"agentwall-runc: {err}", file=sys.stderr)
        return 1


def _asks_for_help(invocation: Invocation) -> bool:
    return bool({"-h", "--help"}.intersection(invocation.rest))


if __name__ == "__main__":
    sys.exit(main())
