# SPDX-License-Identifier: Apache-2.0
"""Which cgroup below a scope is a sandbox. Pure.

Counterparts: :mod:`agentwall.host.cgroup_names` reads the paths and
:mod:`agentwall.host.cgroup_watch` says which there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.daemon.config import Scope, ScopeKind
from agentwall.flow.origin import Origin, Runtime
from agentwall.host.cgroup_names import DEEPEST, Found, Standing, identify, is_plain
from agentwall.host.oci_bundle import POD_HOLDER
from agentwall.policy.globs import matches

_EXCLUDED_NAMESPACES = frozenset(("kube-system",))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cgroup that is a sandbox as far as its path tells."""

    path: str
    """Of the sandbox's own cgroup: what was asked about or an ancestor of it, below the scope."""
    origin: Origin
    is_known: bool = True
    """A runtime's form or the configuration names it. Where False, all that is known is that it is
    the first cgroup below an owned scope that can hold processes; see :func:`gives_way`."""


def candidate_at(scope: Scope, path: str) -> Candidate | None:
    """Return the sandbox that *path* is or belongs to; None if it is none of this scope.

    Below an owned scope that is what a runtime's form names, else the first cgroup below that is
    no slice or the like. Below a shared one it is what a container runtime's or Slurm's form names,
    or what ``include`` covers; a unit of systemd is none by itself. Of several within one another
    the outermost counts. What ``exclude`` covers is none, though something below it may be.
    """
    if not path.startswith(scope.cgroup + "/") or not is_plain(path):
        return None
    found = identify(path, below=scope.cgroup)
    if found.standing is Standing.EXCLUDED:
        return None
    named = _named(scope, found)
    candidate = named
    if scope.kind is ScopeKind.SHARED:
        included = _included(scope, path)
        if included and (named is None or len(included.path) < len(named.path)):
            candidate = included
    elif named is None:
        candidate = _first(scope, path)
    if candidate is None or _covers(scope.exclude, candidate.path):
        return None
    return candidate


def can_hold(scope: Scope, path: str) -> bool:
    """Say whether sandboxes of *scope* may lie below *path*: where not, nobody need look.

    Below the cgroup of a known sandbox, whatever is there belongs to it.
    """
    candidate = candidate_at(scope, path)
    return candidate is None or not candidate.is_known


def gives_way(outer: Candidate, inner: Candidate) -> bool:
    """Say whether *outer* only holds *inner*, which is the sandbox then.

    A runtime that is given a parent makes ``<scope>/<parent>`` first and then
    ``<scope>/<parent>/<container>``. The caller makes sure that no process was ever in *outer*
    itself: what runs in a sandbox must not slip out of it by making a cgroup of the right name.
    """
    return not outer.is_known and inner.is_known and inner.path.startswith(outer.path + "/")


def is_excluded(scope: Scope, origin: Origin) -> bool:
    """Say whether *origin*, once the runtime has been asked, is none of the sandboxes of *scope*.

    In a shared scope those are the cluster's own pods, and the container that only holds a pod
    together. In an owned scope there are none: what is there is under its default at least.
    """
    if scope.kind is ScopeKind.OWNED:
        return False
    holds_pod = origin.pod is not None and origin.name == POD_HOLDER
    return holds_pod or origin.namespace in _EXCLUDED_NAMESPACES


def _named(scope: Scope, found: Found) -> Candidate | None:
    if found.standing is not Standing.SANDBOX or found.origin is None:
        return None
    # What `agentwall run` makes has a wall of its own.
    if scope.kind is ScopeKind.SHARED and found.origin.runtime is Runtime.AGENTWALL:
        return None
    return Candidate(found.cgroup, found.origin)


def _included(scope: Scope, path: str) -> Candidate | None:
    for cgroup in _paths_below(scope.cgroup, path):
        if _covers(scope.include, cgroup):
            return Candidate(cgroup, _origin_at(scope, cgroup))
    return None


def _first(scope: Scope, path: str) -> Candidate | None:
    for cgroup in _paths_below(scope.cgroup, path):
        standing = identify(cgroup, below=scope.cgroup).standing
        if standing is Standing.EXCLUDED:
            return None
        if standing is not Standing.HOLDER:
            return Candidate(cgroup, _origin_at(scope, cgroup), is_known=False)
    return None


def _origin_at(scope: Scope, cgroup: str) -> Origin:
    found = identify(cgroup, below=scope.cgroup)
    if found.origin is not None and found.cgroup == cgroup:
        return found.origin
    return Origin(runtime=Runtime.OTHER)


def _paths_below(scope: str, path: str) -> list[str]:
    """The cgroups from the one directly below *scope* to *path*, the highest first."""
    names = path[len(scope) + 1 :].split("/", DEEPEST)[:DEEPEST]
    return [f"{scope}/{'/'.join(names[: last + 1])}" for last in range(len(names))]


def _covers(globs: tuple[str, ...], path: str) -> bool:
    return any(matches(glob, path) for glob in globs)
