# SPDX-License-Identifier: Apache-2.0
"""``libbpf.so.1`` as typed functions: the one door through which agentwall reaches bpf(2).

:func:`library` opens it once; its messages are kept (:func:`recent_messages`) instead of going to
stderr. ``objects``, ``bpfmap``, ``links``, ``rings`` and ``probe`` are built on it and share its
error handling: libbpf 1.x returns ``-errno``, or NULL with errno set.

Source: include/uapi/linux/bpf.h and libbpf 1.1 (src/bpf.h, src/libbpf.h).
"""

from __future__ import annotations

import ctypes
import enum
import errno
import functools
import os
from collections import deque
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from agentwall.errors import KernelError, UnsupportedFeatureError

SONAME = "libbpf.so.1"
ENOTSUPP = 524
"""Kernel-internal errno that bpf(2) lets out; not in Python's errno module."""
_REASONS = {
    ENOTSUPP: "operation not supported by this kernel",
    # libbpf.h, enum libbpf_errno: of these only what a damaged object file gives.
    4000: "not an ELF file",
    4001: "not a BPF object, or a damaged one",
    4003: "of another byte order",
}


class ProgramType(enum.IntEnum):
    """``enum bpf_prog_type``, as far as agentwall loads or probes it."""

    KPROBE = 2
    """Uprobes too."""
    SCHED_CLS = 3
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    CGROUP_SOCK_ADDR = 18
    LSM = 29


class AttachType(enum.IntEnum):
    """``enum bpf_attach_type``, as far as agentwall attaches, queries or probes it."""

    INET_INGRESS = 0
    INET_EGRESS = 1
    SOCK_CREATE = 2
    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    SENDMSG6 = 15
    LSM_MAC = 27
    SOCK_RELEASE = 34
    LSM_CGROUP = 43
    TCX_INGRESS = 46
    TCX_EGRESS = 47
    UNIX_CONNECT = 49
    UNIX_SENDMSG = 50


class MapType(enum.IntEnum):
    """``enum bpf_map_type``, as far as agentwall uses it."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    CGROUP_STORAGE = 19
    SK_STORAGE = 24
    RINGBUF = 27
    TASK_STORAGE = 29


_PRINT_FN = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

_FD_KEY = (c_int, c_char_p)
_FD_KEY_VALUE = (c_int, c_char_p, c_void_p)
_BATCH = (c_void_p, c_void_p)

_PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "libbpf_set_print": (c_void_p, (_PRINT_FN,)),
    "libbpf_version_string": (c_char_p, ()),
    "libbpf_find_vmlinux_btf_id": (c_int, (c_char_p, c_int)),
    "libbpf_probe_bpf_map_type": (c_int, (c_int, c_void_p)),
    "libbpf_probe_bpf_helper": (c_int, (c_int, c_int, c_void_p)),
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__btf": (c_void_p, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__section_name": (c_char_p, (c_void_p,)),
    "bpf_program__autoload": (c_bool, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__set_log_buf": (c_int, (c_void_p, c_void_p, c_size_t)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__type": (c_int, (c_void_p,)),
    "bpf_program__expected_attach_type": (c_int, (c_void_p,)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__autocreate": (c_bool, (c_void_p,)),
    "bpf_map__set_autocreate": (c_int, (c_void_p, c_bool)),
    "bpf_map__map_flags": (c_uint32, (c_void_p,)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map__btf_key_type_id": (c_uint32, (c_void_p,)),
    "bpf_map__btf_value_type_id": (c_uint32, (c_void_p,)),
    "bpf_map__is_internal": (c_bool, (c_void_p,)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, ctypes.POINTER(c_size_t))),
    "btf__load_from_kernel_by_id": (c_void_p, (c_uint32,)),
    "btf__free": (None, (c_void_p,)),
    "btf__find_by_name_kind": (c_int, (c_void_p, c_char_p, c_uint32)),
    "btf__type_by_id": (c_void_p, (c_void_p, c_uint32)),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32)),
    "bpf_prog_load": (c_int, (c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p)),
    "bpf_map_create": (c_int, (c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p)),
    "bpf_map_lookup_elem": (c_int, _FD_KEY_VALUE),
    "bpf_map_update_elem": (c_int, (c_int, c_char_p, c_char_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, _FD_KEY),
    "bpf_map_lookup_and_delete_elem_flags": (c_int, (*_FD_KEY_VALUE, c_uint64)),
    "bpf_map_get_next_key": (c_int, _FD_KEY_VALUE),
    "bpf_map_update_batch": (c_int, (c_int, c_char_p, c_char_p, *_BATCH)),
    "bpf_map_delete_batch": (c_int, (c_int, c_char_p, *_BATCH)),
    "bpf_map_lookup_batch": (c_int, (c_int, *_BATCH, c_void_p, c_void_p, *_BATCH)),
    "bpf_map_lookup_and_delete_batch": (c_int, (c_int, *_BATCH, c_void_p, c_void_p, *_BATCH)),
    "bpf_link_create": (c_int, (c_int, c_int, c_int, c_void_p)),
    "bpf_link_update": (c_int, (c_int, c_int, c_void_p)),
    "bpf_link_detach": (c_int, (c_int,)),
    "bpf_obj_pin": (c_int, (c_int, c_char_p)),
    "bpf_obj_get": (c_int, (c_char_p,)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_prog_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_prog_query": (c_int, (c_int, c_int, c_uint32, c_void_p, c_void_p, c_void_p)),
    "bpf_prog_test_run_opts": (c_int, (c_int, c_void_p)),
}

_messages: deque[str] = deque(maxlen=32)


@functools.cache
def library() -> ctypes.CDLL:
    """Return ``libbpf.so.1`` with every prototype set.

    Raises:
        UnsupportedFeatureError: It is not installed, or too old (before 1.1).
    """
    try:
        lib = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as err:
        raise UnsupportedFeatureError(
            errno.ENOENT, f"{SONAME}: not found; install it (Debian and Ubuntu: libbpf1)"
        ) from err
    for name, (result, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(lib, name)
        except AttributeError as err:
            raise UnsupportedFeatureError(
                errno.ENOSYS, f"{SONAME}: expected libbpf 1.1 or later, which has {name}()"
            ) from err
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(_print_callback)
    return lib


def _formatter() -> ctypes._NamedFuncPointer:
    vsnprintf = ctypes.CDLL(None).vsnprintf
    # A va_list argument is a pointer in the calling conventions of both x86-64 and arm64.
    vsnprintf.argtypes = (c_void_p, c_size_t, c_char_p, c_void_p)
    return vsnprintf


_vsnprintf = _formatter()


def _keep_message(level: int, text: bytes, arguments: int) -> int:
    if level == 0:  # LIBBPF_WARN: what failed; the rest is progress
        buffer = ctypes.create_string_buffer(1024)
        _vsnprintf(buffer, len(buffer), text, arguments)
        _messages.append(buffer.value.decode(errors="replace").strip().removeprefix("libbpf: "))
    return 0


_print_callback = _PRINT_FN(_keep_message)


def clear_messages() -> None:
    """Forget what libbpf said so far; call before an operation whose messages matter."""
    _messages.clear()


def recent_messages() -> list[str]:
    """Return libbpf's warnings since :func:`clear_messages`, oldest first, at most 32."""
    return list(_messages)


def error(code: int, what: str) -> KernelError:
    """Return the :class:`KernelError` for a positive errno *code*: ``what: reason``."""
    reason = _REASONS.get(code) or os.strerror(code).lower()
    return KernelError(code, f"{what}: {reason}")


def check(result: int, what: str) -> int:
    """Return *result* of a libbpf call, or raise if it is negative (``-errno``).

    Raises:
        KernelError: *result* is negative; *what* says what was tried.
    """
    if result < 0:
        raise error(-result, what)
    return result


def check_pointer(pointer: int | None, what: str) -> int:
    """Return *pointer* of a libbpf call, or raise from errno if it is NULL.

    Raises:
        KernelError: *pointer* is NULL.
    """
    if not pointer:
        raise error(ctypes.get_errno() or errno.EINVAL, what)
    return pointer
