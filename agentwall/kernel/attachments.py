# SPDX-License-Identifier: Apache-2.0
"""Which programs stand at which cgroup: put there, taken over, checked, put back, taken off.

A link is held by a descriptor and, where there is a place for pins, by a pin. A link of a
predecessor is updated to the new program, so there is no moment without one.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.errors import KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel import cgroup2, hooks
from agentwall.kernel.libbpf import AttachType
from agentwall.kernel.links import Link, effective_programs, program_id
from agentwall.kernel.objects import Program

_DETACHED = "it was detached"
_REPLACED = "another program stands in its place"
_UNPINNED = "its pin has gone"
_NO_CGROUP = "its cgroup has gone"
_WITHOUT_EFFECT = "it does not take effect"


@dataclass(frozen=True, slots=True)
class _Hook:
    """A loaded program, with what is asked of it again and again."""

    program: Program
    name: str
    fd: int
    attach_type: AttachType
    id: int


@dataclass(slots=True)
class _Post:
    """What stands at one sandbox's cgroup."""

    cgroup: Path
    cgroup_id: int
    links: dict[str, Link] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        for link in self.links.values():
            link.close()


class Attachments:
    """The links of every sandbox of one wall."""

    def __init__(
        self,
        programs: list[Program],
        absent: dict[str, str],
        links_dir: Path | None,
        *,
        degrade: bool,
    ) -> None:
        """Nothing is attached yet.

        Args:
            programs: Loaded, for cgroups.
            absent: Programs that are not, and why.
            links_dir: Where to pin links.
            degrade: Bear that hooks are refused, but for egress.
        """
        self._hooks = [
            _Hook(one, one.name, one.fd, one.attach_type, program_id(one.fd)) for one in programs
        ]
        self._absent = absent
        self._dir = str(links_dir) if links_dir else None
        self._degrade = degrade
        self._posts: dict[SandboxKey, _Post] = {}

    def __contains__(self, sandbox: SandboxKey) -> bool:
        return sandbox in self._posts

    def sandboxes(self) -> list[SandboxKey]:
        """Return those at whose cgroups something stands."""
        return list(self._posts)

    def links(self, sandbox: SandboxKey) -> dict[str, Link]:
        """Return the links of a sandbox by program."""
        return dict(self._posts[sandbox].links)

    def missing(self, sandbox: SandboxKey) -> dict[str, str]:
        """Return why programs do not stand at a sandbox's cgroup, by program."""
        return dict(self._posts[sandbox].missing)

    def cgroup_id(self, sandbox: SandboxKey, cgroup: Path | None = None) -> int | None:
        """Return the id of a sandbox's cgroup; None if it is not attached, or not to *cgroup*."""
        post = self._posts.get(sandbox)
        return post.cgroup_id if post and cgroup in (None, post.cgroup) else None

    def attach(self, cgroup: Path, sandbox: SandboxKey) -> None:
        """Put every program at *cgroup*.

        Raises:
            HostError: *cgroup* is not one below the root of a cgroup v2 hierarchy.
            KernelError: A link was refused, and those made before it are gone again.
        """
        with cgroup2.attachable(cgroup) as fd:
            post = self._posts[sandbox] = _Post(cgroup, cgroup2.id_of(fd))
            post.missing.update(self._absent)
            try:
                for hook in self._hooks:
                    self._attach(hook, fd, sandbox, post)
            except BaseException:
                self.detach(sandbox)
                raise

    def _attach(self, hook: _Hook, cgroup_fd: int, sandbox: SandboxKey, post: _Post) -> None:
        try:
            link = Link.attach(hook.fd, cgroup_fd, hook.attach_type)
        except KernelError as err:
            if not hooks.may_be_missing(hook.name, degrade=self._degrade):
                raise hooks.refused(hook.program, err) from err
            post.missing[hook.name] = hooks.explain_refusal(err)
            return
        before = post.links.get(hook.name)
        post.links[hook.name] = link
        post.missing.pop(hook.name, None)
        if before is not None:
            before.close()
        self._pin(link, sandbox, hook.name)

    def _pin(self, link: Link, sandbox: SandboxKey, name: str) -> None:
        path = self._path(sandbox, name)
        if path is None:
            return
        try:
            link.pin(path)
        except KernelError as err:
            if err.errno != errno.EEXIST:
                raise
            os.unlink(path)
            link.pin(path)

    def _path(self, sandbox: SandboxKey, name: str) -> str | None:
        return f"{self._dir}/{sandbox:016x}-{name}" if self._dir else None

    def take_over(self, sandbox: SandboxKey, cgroup: Path, inherited: frozenset[str]) -> list[str]:
        """Update the pinned links of *sandbox*, and attach what is not there.

        Args:
            sandbox: Whose links are pinned.
            cgroup: Its.
            inherited: The programs that its predecessor had.

        Returns:
            What had to be repaired, a line each; hooks that are new are no repair.

        Raises:
            HostError: As :meth:`attach`.
            KernelError: A link can be neither updated nor made anew. What stood there stands.
        """
        repaired: list[str] = []
        with cgroup2.attachable(cgroup) as fd:
            post = _Post(cgroup, cgroup2.id_of(fd), missing=dict(self._absent))
            try:
                for hook in self._hooks:
                    problem = self._update(hook, sandbox, post)
                    if problem:
                        self._attach(hook, fd, sandbox, post)
                    if problem and hook.name in inherited:
                        repaired.append(f"{hook.name}: {problem}")
            except BaseException:
                post.close()
                raise
        for name in inherited - {hook.name for hook in self._hooks}:
            self._remove(sandbox, name)
        before = self._posts.get(sandbox)
        self._posts[sandbox] = post
        if before is not None:
            before.close()
        return repaired

    def _update(self, hook: _Hook, sandbox: SandboxKey, post: _Post) -> str:
        """Update one pinned link; say what is wrong where it has to be made anew."""
        path = self._path(sandbox, hook.name)
        try:
            link = Link.open(path or "")
        except KernelError as err:
            if err.errno != errno.ENOENT:
                raise
            return _UNPINNED
        info = link.info()
        problem = ""
        if not info.cgroup_id:
            problem = _DETACHED
        elif (info.cgroup_id, info.attach_type) != (post.cgroup_id, hook.attach_type):
            problem = "it stood elsewhere"
        else:
            try:
                link.update(hook.fd)
            except KernelError as err:
                if err.errno != errno.ENOLINK:
                    link.close()
                    raise
                problem = _DETACHED
        if problem:
            link.close()
        else:
            post.links[hook.name] = link
        return problem

    def _remove(self, sandbox: SandboxKey, name: str) -> None:
        """Take off a program that this object does not have, whose rules nobody maintains."""
        path = self._path(sandbox, name)
        if path is None or not os.path.lexists(path):
            return
        with contextlib.closing(Link.open(path)) as link, unless_gone():
            link.detach()
        os.unlink(path)

    def damage(self, sandbox: SandboxKey) -> list[str]:
        """Return which links of *sandbox* do not hold, a line each: ``program: what is wrong``.

        Raises:
            KernelError: The kernel does not say.
        """
        return [
            f"{hook.name}: {what}" for hook, what in self._damage(self._posts[sandbox], sandbox)
        ]

    def _damage(self, post: _Post, sandbox: SandboxKey) -> Iterator[tuple[_Hook, str]]:
        with _opened(post) as fd:
            for hook in self._hooks:
                link = post.links.get(hook.name)
                if link is None:
                    continue  # it is among what is missing
                info = link.info()
                path = self._path(sandbox, hook.name)
                if fd is None:
                    yield hook, _NO_CGROUP
                elif info.cgroup_id != post.cgroup_id:
                    yield hook, _DETACHED
                elif info.program_id != hook.id:
                    yield hook, _REPLACED
                elif hook.id not in effective_programs(fd, hook.attach_type):
                    yield hook, _WITHOUT_EFFECT
                elif path is not None and not os.path.lexists(path):
                    yield hook, _UNPINNED

    def repair(self, sandbox: SandboxKey, cgroup: Path) -> list[str]:
        """Put back what :meth:`damage` finds; return that.

        Raises:
            HostError: As :meth:`attach`.
            KernelError: It cannot be put back.
        """
        post = self._posts[sandbox]
        found = list(self._damage(post, sandbox))
        if not found:
            return []
        with cgroup2.attachable(cgroup) as fd:
            post.cgroup, post.cgroup_id = cgroup, cgroup2.id_of(fd)
            for hook, what in found:
                link = post.links[hook.name]
                if what == _REPLACED:
                    link.update(hook.fd)
                elif what == _UNPINNED:
                    self._pin(link, sandbox, hook.name)
                else:
                    self._attach(hook, fd, sandbox, post)
        return [f"{hook.name}: {what}" for hook, what in found]

    def detach(self, sandbox: SandboxKey) -> None:
        """Take everything off a sandbox's cgroup, pins included.

        Raises:
            KernelError: A link could not be detached; it then stays.
        """
        post = self._posts.get(sandbox)
        if post is None:
            return
        for link in post.links.values():
            with unless_gone():
                link.detach()
        del self._posts[sandbox]
        post.close()
        for name in post.links:
            path = self._path(sandbox, name)
            if path is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def close(self) -> None:
        """Close the descriptors; what is pinned stays."""
        for post in self._posts.values():
            post.close()
        self._posts.clear()


@contextlib.contextmanager
def unless_gone() -> Iterator[None]:
    """Pass over that a cgroup has been removed: the kernel took its programs off then."""
    try:
        yield
    except KernelError as err:
        if err.errno != errno.ENOLINK:
            raise


@contextlib.contextmanager
def _opened(post: _Post) -> Iterator[int | None]:
    """Yield a descriptor of the cgroup; None if it has gone, or is another of the same name."""
    try:
        fd = os.open(post.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except OSError as err:
        code = err.errno or errno.EIO
        raise KernelError(code, f"{post.cgroup}: open: {os.strerror(code).lower()}") from err
    try:
        yield fd if cgroup2.id_of(fd) == post.cgroup_id else None
    finally:
        os.close(fd)
