# SPDX-License-Identifier: Apache-2.0
"""/etc/agentwall/agentwall.yaml to a :class:`~agentwall.daemon.config.Config`, strictly.

The keys are in ``config_document``. Every fault is a :class:`~agentwall.errors.PolicyError` with a
place, and all that can be found at once are attached to the first. Imports pydantic and PyYAML:
only for the CLI and for short-lived children of the daemon.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

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
from agentwall.daemon.config_document import DEFAULT_POLICY, ConfigDocument, ScopeDocument
from agentwall.daemon.config_values import cgroup_of
from agentwall.daemon.inside_state import TlsUse
from agentwall.errors import PolicyError, SourceLocation
from agentwall.flow.origin import Runtime
from agentwall.policy.globs import matches
from agentwall.policy.problems import Problems, show
from agentwall.policy.source import Source, parse_source
from agentwall.policy.wording import validate_as

MAX_CONFIG_BYTES = 1 << 20


def load_config(path: str | os.PathLike[str] = CONFIG, *, must_exist: bool | None = None) -> Config:
    """Load the configuration file *path*.

    Args:
        path: Shown in places as given here.
        must_exist: Refuse a missing file instead of returning the defaults; by default that is for
            every path but the default one.

    Raises:
        PolicyError: Whatever is wrong with the file, an unreadable one included, or one that
            others than root and the caller may change;
            :attr:`~agentwall.errors.PolicyError.errors` holds everything found.
    """
    name = os.fspath(path)
    try:
        raw = _read(name)
    except FileNotFoundError as err:
        if not (name != os.fspath(CONFIG) if must_exist is None else must_exist):
            return Config()
        raise _whole_file(name, "cannot be read: no such file or directory") from err
    except OSError as err:
        reason = (err.strerror or str(err)).lower()
        raise _whole_file(name, f"cannot be read: {reason}") from err
    return parse_config(raw, name)


def parse_config(raw: bytes, path: str) -> Config:
    """Parse the content of the configuration file *path*, which is used for places only.

    Raises:
        PolicyError: As :func:`load_config`.
    """
    source = parse_source(raw, path)
    problems = Problems()
    document = validate_as(ConfigDocument, source, problems)
    # From what is written and not from the document: one look at the file is enough, then.
    _check_scopes(source, problems)
    try:
        problems.raise_any()
    except PolicyError as err:
        ordered = Problems()
        for each in sorted(err.errors, key=lambda error: error.where):
            # Without the others that hang on it: they follow.
            ordered.add_error(PolicyError(each.where, each.key, each.problem))
        ordered.raise_any()
    assert document is not None, "what is wrong has been raised"
    return _config(document, path)


def _read(path: str) -> bytes:
    # Not to hang on a FIFO.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise _whole_file(path, "expected a regular file")
        # It names a command that runs as root.
        if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or state.st_uid not in (0, os.geteuid()):
            mode = stat.S_IMODE(state.st_mode)
            problem = (
                "expected a file that only root may change, got one of user "
                f"{state.st_uid} with mode {mode:04o}"
            )
            raise _whole_file(path, problem)
        raw = file.read(MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise _whole_file(path, f"expected at most {MAX_CONFIG_BYTES >> 20} MiB")
    return raw


def _whole_file(path: str, problem: str) -> PolicyError:
    return PolicyError(SourceLocation(path, 1, 1), "", problem)


def _check_scopes(source: Source, problems: Problems) -> None:
    found: list[tuple[str, int]] = []
    for index, cgroup in _cgroups(source):
        place = ("scopes", index, "cgroup")
        where = source.locate(place)
        for other, line in found:
            if relation := _relation(cgroup, other):
                problem = f"expected a scope apart from the others, got {show(cgroup)}, which "
                problems.add(where, place, f"{problem}{relation} {show(other)} on line {line}")
                break
        found.append((cgroup, where.line))
        _check_globs(source, index, cgroup, problems)


def _cgroups(source: Source) -> Iterator[tuple[int, str]]:
    """Yield index and cgroup of each scope whose cgroup is valid."""
    scopes = source.data.get("scopes")
    for index, scope in enumerate(scopes if isinstance(scopes, list) else ()):
        if isinstance(scope, dict) and (cgroup := cgroup_of(scope.get("cgroup"))):
            yield index, cgroup


def _relation(cgroup: str, other: str) -> str | None:
    if cgroup == other:
        return "is the same as"
    if cgroup.startswith(f"{other}/"):
        return "lies within"
    return "holds" if other.startswith(f"{cgroup}/") else None


def _check_globs(source: Source, index: int, cgroup: str, problems: Problems) -> None:
    """Refuse globs that cover nothing below *cgroup*: they would be silently without effect."""
    scopes = source.data["scopes"]
    assert isinstance(scopes, list), "it has a cgroup"
    scope = scopes[index]
    for key in ("include", "exclude"):
        entries = scope.get(key) if isinstance(scope, dict) else None
        for number, glob in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(glob, str) and glob.startswith("/") and not _reaches(glob, cgroup):
                place = ("scopes", index, key, number)
                problem = f"expected a path below {cgroup}, got {show(glob)}"
                problems.add(source.locate(place), place, problem)


def _reaches(glob: str, cgroup: str) -> bool:
    """Say whether *glob* can cover anything below *cgroup*."""
    names, within = glob.split("/"), cgroup.split("/")
    fixed = names[: names.index("**")] if "**" in names else names
    depth = min(len(fixed), len(within))
    deep_enough = "**" in names or len(names) > len(within)
    return deep_enough and matches("/".join(fixed[:depth]), "/".join(within[:depth]))


def _config(document: ConfigDocument, path: str) -> Config:
    log, control, response = document.log, document.control, document.response
    return Config(
        policies=Path(document.policies),
        signatures=document.signatures,
        # An empty list is refused, so an empty tuple means that there is none.
        scopes=tuple(map(_scope, document.scopes)) or Config().scopes,
        runtimes={
            Runtime(field.alias or key): getattr(document.runtimes, key)
            for key, field in type(document.runtimes).model_fields.items()
            if getattr(document.runtimes, key)
        },
        log=LogSettings(
            path=Path(log.path),
            max_bytes=log.max_bytes,
            keep=log.keep,
            group=log.group or None,
            journal=log.journal,
            flows=log.flows,
        ),
        control=ControlSettings(
            socket=Path(control.socket),
            readers=control.readers or None,
            operators=control.operators or None,
        ),
        metrics=document.metrics.listen or None,
        response=ResponseSettings(
            command=response.command,
            command_timeout_s=float(response.command_timeout_s),
            per_minute=response.per_minute,
            snapshots=Path(response.snapshots),
        ),
        tls=TlsSettings(
            inspect=TlsUse(document.tls.inspect), max_libraries=document.tls.max_libraries
        ),
        watch=document.watch,
        state=Path(document.state),
        files=(path,),
    )


def _scope(document: ScopeDocument) -> Scope:
    kind = ScopeKind(document.kind)
    default = document.default or (DEFAULT_POLICY if kind is ScopeKind.OWNED else None)
    return Scope(
        cgroup=document.cgroup,
        kind=kind,
        default=default,
        policies=tuple(dict.fromkeys(document.policies)),
        include=document.include,
        exclude=document.exclude,
    )
