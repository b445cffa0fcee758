# SPDX-License-Identifier: Apache-2.0
"""``python -m agentwall.daemon.edition_read``: reads an edition, for the daemon that started it.

A :class:`Request` on standard input, an :class:`Edition` or :class:`Rejected` on standard output,
both pickled: it is the daemon's own child, and nobody else writes there.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agentwall import __version__
from agentwall.daemon.config import Config
from agentwall.daemon.config_load import load_config
from agentwall.daemon.edition import Body, Edition, Rejected, Request
from agentwall.daemon.inside_state import TlsUse
from agentwall.daemon.inspection import inside_of
from agentwall.detect.judging import masks_of
from agentwall.detect.signature import SignatureSet
from agentwall.errors import AgentwallError, PolicyError, SourceLocation
from agentwall.host.git_head import commit_of, log_directory_of
from agentwall.host.signature_files import default_directories, read_signatures, table_of
from agentwall.policy.choose import check_ties
from agentwall.policy.compile import compile_policy
from agentwall.policy.load import default_policy, load_policy
from agentwall.policy.model import Policy
from agentwall.policy.phases import in_phase
from agentwall.policy.problems import Problems


def read_edition(request: Request) -> Edition:
    """Read the configuration that *request* names, and everything that it leads to.

    Raises:
        PolicyError: With everything that is wrong with the first kind of file that has problems.
        AgentwallError: Too many dialects or states; a directory that cannot be read.
    """
    config = load_config(Path(request.config), must_exist=request.must_exist)
    commit, why_not = commit_of(config.policies)
    policies = _policies(config, commit)
    _check_scopes(config, {policy.name for policy in policies})
    check_ties(policies)
    signatures = read_signatures(config.signatures)
    bodies = {each.name: tuple(_bodies(each, signatures, config.tls.inspect)) for each in policies}
    return Edition(
        config=config,
        policies=bodies,
        signatures=signatures,
        packed=table_of(signatures),
        digest=_digest(config, policies, signatures),
        commit=commit,
        commit_problem=why_not,
        directories=tuple(_directories(config, policies)),
    )


def _policies(config: Config, commit: str | None) -> list[Policy]:
    """Return every policy of the directory, which is at *commit*, and the built-in one.

    A file may take the name of the built-in one, and so its place.
    """
    problems = Problems()
    found: dict[str, Policy] = {}
    for path in _files(config.policies):
        try:
            _expect_file(path)
            policy = load_policy(path)
        except PolicyError as err:
            problems.add_error(err)
            continue
        before = found.get(policy.name)
        if before is not None:
            where = SourceLocation(str(path), 1, 1)
            what = f"expected a name of its own, got {policy.name}, as {before.files[-1]} has"
            problems.add_error(PolicyError(where, "name", what))
        found[policy.name] = replace(policy, commit=commit)
    problems.raise_any()
    built_in = default_policy()
    found.setdefault(built_in.name, built_in)
    return list(found.values())


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".yaml")
    except FileNotFoundError:
        return []
    except OSError as err:
        where = SourceLocation(str(directory), 1, 1)
        raise PolicyError(where, "", f"reading it: {err.strerror}") from err


def _expect_file(path: Path) -> None:
    # Whoever reads a pipe may wait for ever.
    if path.exists() and not path.is_file():
        raise PolicyError(SourceLocation(str(path), 1, 1), "", "expected a regular file")


def _check_scopes(config: Config, names: set[str]) -> None:
    problems = Problems()
    where = SourceLocation(config.files[-1] if config.files else "agentwall.yaml", 1, 1)
    for index, scope in enumerate(config.scopes):
        wanted = (*((scope.default,) if scope.default else ()), *scope.policies)
        for name in (each for each in wanted if each not in names):
            known = ", ".join(sorted(names))
            what = f"expected one of the policies ({known}), got {name}"
            problems.add_error(PolicyError(where, f"scopes[{index}]", what))
    problems.raise_any()


def _bodies(policy: Policy, signatures: SignatureSet, tls: TlsUse) -> Iterator[Body]:
    phases: list[str | None] = [each.name for each in policy.phases]
    for phase in phases or [None]:
        one = in_phase(policy, phase)
        tables = compile_policy(one)
        yield Body(
            policy=one,
            tables=tables,
            masks=masks_of(one, tables, signatures),
            inside=inside_of(tables, tls),
        )


def _directories(config: Config, policies: list[Policy]) -> Iterator[str]:
    """Yield where a change may mean another edition."""
    files = [*config.files, *(file for policy in policies for file in policy.files)]
    found = {os.path.dirname(os.path.abspath(each)) for each in files}
    found |= {os.path.abspath(config.policies), *default_directories()}
    if logs := log_directory_of(config.policies):
        found.add(logs)
    for each in map(os.path.abspath, config.signatures):
        found.add(each if os.path.isdir(each) else os.path.dirname(each))
    yield from (each for each in sorted(found) if os.path.isdir(each))


def _digest(config: Config, policies: list[Policy], signatures: SignatureSet) -> str:
    whole = hashlib.sha256(repr(config).encode())
    for policy in policies:
        whole.update(f"{policy.name} {policy.digest}\n".encode())
    whole.update(signatures.digest.encode())
    return whole.hexdigest()


def _answer(request: Request) -> Edition | Rejected:
    if request.version != __version__:
        what = f"agentwall {__version__} was installed meanwhile: start the daemon again"
        return Rejected(problems=(what,), is_usage=False)
    try:
        return read_edition(request)
    except PolicyError as err:
        return Rejected(problems=tuple(map(str, err.errors)), is_usage=True)
    except AgentwallError as err:
        return Rejected(problems=(str(err),), is_usage=False)


def main() -> None:
    """Answer one request."""
    answer = _answer(pickle.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL))


if __name__ == "__main__":
    main()
