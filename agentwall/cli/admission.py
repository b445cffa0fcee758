# SPDX-License-Identifier: Apache-2.0
"""Ask the daemon to put a container under its policy, on behalf of a runtime or of a person.

As a program (``agentwall-hook``) it is the OCI hook ``createRuntime``, and with ``--release``
``poststop``: a container's start waits for it, so it imports next to nothing. ``agentwall admit``
is the same behind the command line. Counterpart: the control socket of the daemon.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence

SCHEMA = "agentwall.control/1"
SOCKET = "/run/agentwall/control.sock"
POLICY_ANNOTATION = "io.agentwall.policy"
TIMEOUT_S = 10.0

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3

_MAX_BYTES = 1 << 20
"""Of a state, a request and an answer."""
_MAX_ID = 256
_MAX_LABELS = 128
_MAX_LABEL = 4096
_MAX_ALL_LABELS = 1 << 17
"""Characters, keys included: below what the daemon takes."""
_MAX_PROC_BYTES = 1 << 16
_MAX_PID = 1 << 22
_RETRY_S = 0.05
_ABSENT = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR)


class Failure(Exception):
    """The container is not under its policy; the message is one line for whoever started it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Wanted:
    """What is to be admitted or released."""

    __slots__ = (
        "bundle",
        "container",
        "labels",
        "pid",
        "policy",
        "release",
        "unmatched",
        "unwatched",
    )

    def __init__(
        self,
        *,
        pid: int = 0,
        container: str = "",
        bundle: str = "",
        labels: Mapping[str, str] | None = None,
        policy: str | None = None,
        release: bool = False,
        unwatched: bool = False,
        unmatched: bool = False,
    ) -> None:
        self.pid = pid
        self.container = container
        self.bundle = bundle
        self.labels = dict(labels or {})
        self.policy = policy
        self.release = release
        self.unwatched = unwatched
        """Start it all the same where no daemon runs."""
        self.unmatched = unmatched
        """Start it all the same if the daemon says that no policy is for it."""


def read_state(raw: bytes, *, release: bool = False) -> Wanted:
    """Return what an OCI state asks for (runtime-spec, "State").

    Annotations that are too long or too many to be labels are left out.

    Raises:
        Failure: It is no such state.
    """
    if len(raw) > _MAX_BYTES:
        raise Failure(EXIT_USAGE, f"state: expected at most {_MAX_BYTES} bytes")
    try:
        state = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise Failure(EXIT_USAGE, "state: expected the JSON that runtimes give to hooks") from err
    if not isinstance(state, dict) or not isinstance(state.get("ociVersion"), str):
        raise Failure(EXIT_USAGE, "state: ociVersion: expected an OCI state")
    container, pid, bundle = state.get("id"), state.get("pid", 0), state.get("bundle", "")
    if not isinstance(container, str) or not 0 < len(container) <= _MAX_ID:
        raise Failure(EXIT_USAGE, f"state: id: expected 1 to {_MAX_ID} characters")
    if not isinstance(pid, int) or not (release or 0 < pid <= _MAX_PID):
        raise Failure(EXIT_USAGE, f"state: pid: expected the container's process, got {pid!r:.40}")
    if not isinstance(bundle, str) or not isinstance(state.get("annotations") or {}, dict):
        raise Failure(EXIT_USAGE, "state: expected a bundle's path and a map of annotations")
    annotations = dict(state.get("annotations") or {})
    policy = annotations.pop(POLICY_ANNOTATION, None)
    if policy is not None and not isinstance(policy, str):
        raise Failure(EXIT_USAGE, f"state: annotations.{POLICY_ANNOTATION}: expected a name")
    return Wanted(
        pid=pid,
        container=container,
        bundle=bundle,
        labels=_labels(annotations),
        policy=policy,
        release=release,
    )


def _labels(annotations: dict[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    left = _MAX_ALL_LABELS
    for key, value in annotations.items():
        if not isinstance(value, str) or not (key + value).isprintable():
            continue
        size = len(key) + len(value)
        if size <= min(left, _MAX_LABEL) and len(found) < _MAX_LABELS:
            found[key] = value
            left -= size
    return found


def fulfil(wanted: Wanted, path: str = SOCKET) -> dict[str, object] | None:
    """Ask the daemon, and return what it says of the sandbox.

    None: no daemon runs, and that was not to matter, or there is nothing to release. Without a
    sandbox in it: no policy is for it, and that was not to matter.

    Raises:
        Failure: The wall does not stand, or that is not known.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    if wanted.release:
        answer = _ask(path, {"request": "release", "sandbox": wanted.container}, deadline_s)
        return None if answer.get("code") == "not-found" else _result(answer)
    before = _identity(wanted.pid)
    request = {
        "request": "admit",
        "pid": wanted.pid,
        "container": wanted.container or None,
        "bundle": wanted.bundle or None,
        "labels": wanted.labels,
        "policy": wanted.policy,
    }
    try:
        result = _result(_ask(path, request, deadline_s))
    except Failure as failure:
        if failure.code == EXIT_NOT_RUNNING and wanted.unwatched:
            return None
        raise
    if not isinstance(result.get("sandbox"), str) and not wanted.unmatched:
        raise Failure(EXIT_REFUSED, "no policy of the daemon is for it")
    if _identity(wanted.pid) != before:
        raise Failure(EXIT_REFUSED, f"process {wanted.pid} is no longer where it was")
    return result


def _identity(pid: int) -> tuple[str, bytes]:
    """Return the cgroup of a process, and when it started."""
    try:
        text = _read(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape")
        # The name may hold anything; starttime is the 20th field after it (proc(5)).
        started = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19]
    except (OSError, IndexError) as err:
        raise Failure(EXIT_REFUSED, f"process {pid}: there is none, or /proc hides it") from err
    path = next((line[3:] for line in text.splitlines() if line.startswith("0::")), "")
    if not path.strip("/") or ".." in path.split("/"):
        raise Failure(
            EXIT_REFUSED, f"process {pid}: expected a cgroup below the root, got {path!r:.200}"
        )
    return path, started


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(_MAX_PROC_BYTES) or b""


def _result(answer: dict[str, object]) -> dict[str, object]:
    found = answer.get("result")
    if isinstance(found, dict):
        return found
    raise Failure(EXIT_REFUSED, f"refused: {answer.get('message')} ({answer.get('code')})")


def _ask(path: str, request: dict[str, object], deadline_s: float) -> dict[str, object]:
    """Return ``{"result": ...}`` or the error's code and message."""
    line = json.dumps({"schema": SCHEMA, **request}).encode() + b"\n"
    if len(line) > _MAX_BYTES:
        raise Failure(EXIT_USAGE, f"request: expected at most {_MAX_BYTES} bytes")
    while True:
        answer = _parse(_exchange(path, line, deadline_s))
        if answer.get("code") != "busy" or time.monotonic() + _RETRY_S > deadline_s:
            return answer
        time.sleep(_RETRY_S)


def _exchange(path: str, line: bytes, deadline_s: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(max(0.001, deadline_s - time.monotonic()))
            connection.connect(path)
        except OSError as err:
            if err.errno in _ABSENT:
                raise Failure(EXIT_NOT_RUNNING, f"the daemon is not running ({path})") from err
            raise Failure(EXIT_REFUSED, f"{path}: {err.strerror or err}") from err
        try:
            connection.sendall(line)
            answer = b""
            while not answer.endswith(b"\n") and len(answer) <= _MAX_BYTES:
                connection.settimeout(max(0.001, deadline_s - time.monotonic()))
                if not (more := connection.recv(1 << 16)):
                    raise Failure(EXIT_REFUSED, "the daemon ended before it answered")
                answer += more
            return answer
        except TimeoutError as err:
            message = f"the daemon did not answer within {TIMEOUT_S:g} s"
            raise Failure(EXIT_REFUSED, message) from err
        except OSError as err:
            raise Failure(EXIT_REFUSED, f"{path}: {err.strerror or err}") from err


def _parse(line: bytes) -> dict[str, object]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise Failure(EXIT_REFUSED, "the daemon's answer is not one line of JSON") from err
    if not isinstance(answer, dict) or answer.get("schema") != SCHEMA:
        raise Failure(EXIT_REFUSED, f"the daemon's answer is not of {SCHEMA}")
    if answer.get("ok") is True and isinstance(answer.get("result"), dict):
        return {"result": answer["result"]}
    error = answer.get("error")
    if not isinstance(error, dict):
        raise Failure(EXIT_REFUSED, "the daemon's answer has neither a result nor an error")
    return {"code": str(error.get("code")), "message": str(error.get("message"))}


def say(text: str) -> None:
    """Print one line to stderr, safe for a terminal whoever chose what is in it."""
    from agentwall.sinks.escape import printable  # most hooks have nothing to say

    print(f"agentwall: {printable(text)}", file=sys.stderr)


def say_unwatched(wanted: Wanted) -> None:
    """Say that a container starts with nothing around it."""
    name = wanted.container or f"process {wanted.pid}"
    say(f"admit: the daemon is not running: {name} starts unwatched")


def read_stdin() -> bytes:
    """Return what the runtime says on stdin, and one byte more than it may."""
    return sys.stdin.buffer.read(_MAX_BYTES + 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Be an OCI hook: the state on stdin, exit 0 only if the wall stands."""
    path = SOCKET
    flags = dict.fromkeys(("--release", "--allow-unwatched", "--allow-unmatched"), False)
    for word in sys.argv[1:] if argv is None else argv:
        if word in flags:
            flags[word] = True
        elif word.startswith("--socket=/"):
            path = word.partition("=")[2]
        else:
            say(f"usage: agentwall-hook {' '.join(f'[{flag}]' for flag in flags)} [--socket=PATH]")
            return EXIT_USAGE
    release = flags["--release"]
    try:
        wanted = read_state(read_stdin(), release=release)
        wanted.unwatched = flags["--allow-unwatched"]
        wanted.unmatched = flags["--allow-unmatched"]
        if fulfil(wanted, path) is None and not release:
            say_unwatched(wanted)
    except Failure as failure:
        say(f"{'release' if release else 'admit'}: {failure}")
        return failure.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
