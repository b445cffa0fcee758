# SPDX-License-Identifier: Apache-2.0
"""What this host can enforce, found out by trying; ``doctor`` prints it, ``wall`` acts on it.

Three answers are kept apart: supported, missing (with what would help), and unknown, where it
could not be tried.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from agentwall.errors import AgentwallError, HostError, KernelError
from agentwall.kernel import libbpf, probe
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.cgroup2 import attachable, own_cgroup, temporary_cgroup
from agentwall.kernel.libbpf import AttachType, MapType, ProgramType


class State(enum.Enum):
    """How a probe ended."""

    SUPPORTED = "supported"
    MISSING = "missing"
    UNKNOWN = "unknown"
    """Not tried, because something it needs is missing."""


class Group(enum.Enum):
    """What a feature is a feature of."""

    HOST = "host"
    """Without these nothing can run at all."""
    HOOK = "hook"
    KERNEL = "kernel"
    """Map types, helpers and operations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One thing that was tried."""

    name: str
    group: Group
    state: State
    detail: str
    """What was found, or why not."""
    required: bool
    """Whether a sandbox is not closed without it."""
    remedy: str = ""
    """What would help; empty where it is there or nothing would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSpec:
    """A hook: which program stands there, and whether the wall is one without it."""

    program: str
    program_type: ProgramType
    attach_type: AttachType
    required: bool
    purpose: str


def _hook(program: str, attach: AttachType, purpose: str, *, required: bool = True) -> HookSpec:
    kinds = {
        AttachType.INET_INGRESS: ProgramType.CGROUP_SKB,
        AttachType.INET_EGRESS: ProgramType.CGROUP_SKB,
        AttachType.SOCK_CREATE: ProgramType.CGROUP_SOCK,
        AttachType.SOCK_RELEASE: ProgramType.CGROUP_SOCK,
    }
    return HookSpec(
        program=program,
        program_type=kinds.get(attach, ProgramType.CGROUP_SOCK_ADDR),
        attach_type=attach,
        required=required,
        purpose=purpose,
    )


HOOKS: tuple[HookSpec, ...] = (
    _hook("aw_connect4", AttachType.CONNECT4, "refuses TCP and UDP connect() with an errno"),
    _hook("aw_connect6", AttachType.CONNECT6, "the same for IPv6"),
    _hook("aw_sendmsg4", AttachType.SENDMSG4, "refuses unconnected UDP with an errno"),
    _hook("aw_sendmsg6", AttachType.SENDMSG6, "the same for IPv6"),
    _hook("aw_sock_create", AttachType.SOCK_CREATE, "refuses raw sockets and odd protocols"),
    _hook("aw_egress", AttachType.INET_EGRESS, "judges every packet that leaves"),
    _hook("aw_ingress", AttachType.INET_INGRESS, "judges every packet that arrives"),
    _hook("aw_sock_release", AttachType.SOCK_RELEASE, "duration of flows", required=False),
)
"""The hooks whose programs the object has."""

OTHER_HOOKS: tuple[HookSpec, ...] = (
    _hook("", AttachType.UNIX_CONNECT, "not used: unix sockets of host daemons", required=False),
    _hook("", AttachType.UNIX_SENDMSG, "not used: unix sockets of host daemons", required=False),
)
"""Hooks at which no program of the object stands; ``run`` closes otherwise what they would see."""

_MAPS = (
    MapType.HASH,
    MapType.ARRAY,
    MapType.LRU_HASH,
    MapType.LPM_TRIE,
    MapType.ARRAY_OF_MAPS,
    MapType.CGROUP_STORAGE,
    MapType.SK_STORAGE,
    MapType.RINGBUF,
)

# include/uapi/linux/bpf.h, enum bpf_func_id
_GET_LOCAL_STORAGE, _SK_LOOKUP_TCP, _SK_LOOKUP_UDP, _SK_STORAGE_GET = 81, 84, 85, 107
_KTIME_GET_BOOT_NS, _RINGBUF_RESERVE, _SET_RETVAL = 125, 131, 187
_SKB, _ADDR = ProgramType.CGROUP_SKB, ProgramType.CGROUP_SOCK_ADDR
_HELPERS = (
    ("bpf_get_local_storage", _SKB, _GET_LOCAL_STORAGE),
    ("bpf_get_local_storage", _ADDR, _GET_LOCAL_STORAGE),
    ("bpf_sk_storage_get", _SKB, _SK_STORAGE_GET),
    ("bpf_sk_storage_get", _ADDR, _SK_STORAGE_GET),
    ("bpf_sk_lookup_tcp", _SKB, _SK_LOOKUP_TCP),
    ("bpf_sk_lookup_udp", _SKB, _SK_LOOKUP_UDP),
    ("bpf_ringbuf_reserve", _SKB, _RINGBUF_RESERVE),
    ("bpf_ktime_get_boot_ns", _SKB, _KTIME_GET_BOOT_NS),
)

_P = ParamSpec("_P")
_CAPABILITIES = {"NET_ADMIN": 12, "SYS_ADMIN": 21, "BPF": 39}
_NEWER_KERNEL = "Linux 6.1 or later, which is what agentwall promises to run on"
_REMEDIES = {
    "bpf(2)": "a kernel with CONFIG_BPF_SYSCALL, and no filter on bpf(2)",
    "unix_connect": "Linux 6.7 or later",
    "unix_sendmsg": "Linux 6.7 or later",
    "tcx": "Linux 6.6 or later",
    "lsm": "a kernel with BPF LSM, booted with bpf in its lsm= list",
    "batch update of lpm_trie": "a later kernel; until then rules are written one by one",
    "bpf_set_retval in cgroup_sock_addr": "Linux 5.18 or later; until then refusals are EPERM",
}


def survey() -> list[Feature]:
    """Try everything and return it in the order in which one thing needs another.

    Makes an empty cgroup below this process's own, for the length of the call.
    """
    host = list(_host_features())
    lacking = next((f.name for f in host if f.required and f.state is not State.SUPPORTED), None)
    return [*host, *_hook_features(lacking), *_kernel_features(lacking)]


def has_set_retval() -> bool:
    """Say whether sock_addr programs may choose the errno of a refusal (Linux 5.18 and later)."""
    return probe.has_helper(ProgramType.CGROUP_SOCK_ADDR, _SET_RETVAL)


def why_not(hook: HookSpec) -> str | None:
    """Return why the kernel takes no programs for *hook*, or None where it does."""
    try:
        with probe.loaded(hook.program_type, hook.attach_type):
            return None
    except KernelError as err:
        return str(err)


def _host_features() -> Iterator[Feature]:
    library = _host("libbpf", _libbpf_version, "install libbpf1 (libbpf.so.1, 1.1 or later)")
    yield library
    yield _host(
        "cgroup v2", lambda: f"mounted, own cgroup {own_cgroup()}", "mount or boot with cgroup v2"
    )
    rights = _host("capabilities", _held_capabilities, "run as root, or with sudo")
    yield rights
    lacking = next((f.name for f in (library, rights) if f.state is not State.SUPPORTED), None)
    yield _try_unless(lacking, "bpf(2)", Group.HOST, _try_bpf, True)
    yield _host("bpffs", _try_bpffs, "a kernel with CONFIG_BPF_SYSCALL")


def _host(name: str, attempt: Callable[[], str], remedy: str) -> Feature:
    return _try(name, Group.HOST, attempt, required=True, remedy=remedy)


def _try(
    name: str, group: Group, attempt: Callable[[], str], *, required: bool, remedy: str
) -> Feature:
    try:
        detail, state = attempt(), State.SUPPORTED
    except AgentwallError as err:
        detail, state = str(err), State.MISSING
    return Feature(
        name=name,
        group=group,
        state=state,
        detail=detail,
        required=required,
        remedy="" if state is State.SUPPORTED else remedy,
    )


def _libbpf_version() -> str:
    return str(libbpf.library().libbpf_version_string().decode())


def _held_capabilities() -> str:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    held = int(line.split()[1], 16)
    lacking = [name for name, number in _CAPABILITIES.items() if not held >> number & 1]
    if lacking:
        raise HostError(f"lacking {', '.join(lacking)}")
    return "BPF, NET_ADMIN and SYS_ADMIN held"


def _try_bpf() -> str:
    shape = MapShape(name="aw_probe", type=MapType.ARRAY, key_size=4, value_size=8, max_entries=1)
    BpfMap.create(shape).close()
    return "map created"


def _try_bpffs() -> str:
    if "\tbpf\n" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
        raise HostError("file system type bpf: not known to this kernel")
    return "file system type known"


def _hook_features(lacking: str | None) -> Iterator[Feature]:
    with ExitStack() as stack:
        cgroup_fd = -1
        if not lacking:
            try:
                cgroup = stack.enter_context(temporary_cgroup())
                cgroup_fd = stack.enter_context(attachable(cgroup))
            except HostError as err:
                lacking = str(err)
        for hook in (*HOOKS, *OTHER_HOOKS):
            name = hook.attach_type.name.lower()
            yield _try_unless(lacking, name, Group.HOOK, _attempt(hook, cgroup_fd), hook.required)
    yield _try_unless(lacking, "tcx", Group.HOOK, _try_tcx, False)
    yield _try_unless(lacking, "lsm", Group.HOOK, _try_lsm, False)


def _attempt(hook: HookSpec, cgroup_fd: int) -> Callable[[], str]:
    def attempt() -> str:
        probe.try_cgroup_hook(hook.program_type, hook.attach_type, cgroup_fd)
        return hook.purpose

    return attempt


def _try_tcx() -> str:
    try:
        probe.try_tcx()
    except KernelError as err:
        if err.errno != errno.ENODEV:
            raise
    return "answers DNS questions that are refused"


def _try_lsm() -> str:
    probe.try_lsm("socket_create")
    active = Path("/sys/kernel/security/lsm")
    if active.exists() and "bpf" not in active.read_text(encoding="utf-8").split(","):
        raise HostError("programs load, but bpf is not among the active security modules")
    return "not used: sockets of every family"


def _kernel_features(lacking: str | None) -> Iterator[Feature]:
    for kind in _MAPS:
        name = f"map {kind.name.lower()}"
        yield _try_unless(lacking, name, Group.KERNEL, _ask(probe.has_map_type, kind), True)
    for name, program_type, helper in _HELPERS:
        title = f"{name} in {program_type.name.lower()}"
        ask = _ask(probe.has_helper, program_type, helper)
        yield _try_unless(lacking, title, Group.KERNEL, ask, True)
    retval = "bpf_set_retval in cgroup_sock_addr"
    yield _try_unless(lacking, retval, Group.KERNEL, _ask(has_set_retval), False)
    for kind in (MapType.HASH, MapType.LPM_TRIE):
        title = f"batch update of {kind.name.lower()}"
        yield _try_unless(lacking, title, Group.KERNEL, _ask(probe.has_batch_update, kind), False)


def _ask(question: Callable[_P, bool], *args: _P.args, **kwargs: _P.kwargs) -> Callable[[], str]:
    def attempt() -> str:
        if not question(*args, **kwargs):
            raise HostError("not known to this kernel")
        return "there"

    return attempt


def _try_unless(
    lacking: str | None, name: str, group: Group, attempt: Callable[[], str], required: bool
) -> Feature:
    if lacking:
        detail = f"not tried: {lacking}"
        return Feature(
            name=name, group=group, state=State.UNKNOWN, detail=detail, required=required
        )
    return _try(name, group, attempt, required=required, remedy=_REMEDIES.get(name, _NEWER_KERNEL))
