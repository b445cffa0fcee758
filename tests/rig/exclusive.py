# SPDX-License-Identifier: Apache-2.0
"""A hook that somebody else keeps to himself, so that no program can be attached below."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentwall.kernel import probe
from agentwall.kernel.features import HOOKS
from agentwall.kernel.libbpf import check

_libbpf = ctypes.CDLL("libbpf.so.1")
_EXCLUSIVE = 0
"""bpf(2), BPF_PROG_ATTACH: neither BPF_F_ALLOW_OVERRIDE nor BPF_F_ALLOW_MULTI."""


@contextmanager
def exclusively(cgroup: Path, *programs: str) -> Iterator[None]:
    """Occupy the hooks of these of agentwall's *programs* at *cgroup*, one of the test's own.

    A program that permits everything stands there, attached so that below *cgroup* links of the
    same kind are refused with EPERM.
    """
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    with ExitStack() as stack:
        stack.callback(os.close, fd)
        for hook in HOOKS:
            if hook.program in programs:
                made = stack.enter_context(probe.loaded(hook.program_type, hook.attach_type))
                attached = _libbpf.bpf_prog_attach(made, fd, int(hook.attach_type), _EXCLUSIVE)
                check(attached, f"attach {hook.attach_type.name} exclusively")
                stack.callback(_libbpf.bpf_prog_detach, fd, int(hook.attach_type))
        yield
