# SPDX-License-Identifier: Apache-2.0
"""Which programs of the object stand, and what is said of one that this kernel does not take.

A wall that may degrade does without any program but :data:`ENFORCER`; every other wall needs all
that are required. A program that the verifier rejects is a defect, and an error for both.
"""

from __future__ import annotations

import errno

from agentwall.errors import KernelError, UnsupportedFeatureError
from agentwall.kernel import features, plain
from agentwall.kernel.objects import BpfObject, Program

ENFORCER = "aw_egress"
"""The program that judges every packet: without it nothing is enforced, whatever the others say."""

_EXCLUSIVE = " (a program in a cgroup above may keep the hook to itself: bpftool cgroup tree)"


def choose_programs(bpf: BpfObject, *, degrade: bool) -> dict[str, str]:
    """Leave out of *bpf*, before it is loaded, what this kernel does not take, found by trying.

    Returns:
        Why each program that is left out is, by its name.

    Raises:
        UnsupportedFeatureError: A program that the wall cannot do without is among them.
        KernelError: The object lacks a program.
    """
    absent = {}
    there = {program.name: program for program in bpf.programs()}
    for hook in features.HOOKS:
        if hook.program not in there:
            raise KernelError(errno.ENOENT, f"{bpf.path}: expected a program {hook.program}")
        reason = features.why_not(hook)
        if reason:
            if not may_be_missing(hook.program, degrade=degrade):
                what = f"{hook.program}: {reason}; agentwall doctor says more{_hint(hook.program)}"
                raise UnsupportedFeatureError(errno.EOPNOTSUPP, what)
            absent[hook.program] = reason
        there[hook.program].set_autoload(not reason)
    if plain.PROGRAM in there:
        is_taken = not plain.why_not()
        there[plain.PROGRAM].set_autoload(is_taken)
        bpf.set_autocreate(plain.READS, is_taken)
    return absent


def may_be_missing(program: str, *, degrade: bool) -> bool:
    """Say whether a wall stands without *program*."""
    is_required = any(hook.required for hook in features.HOOKS if hook.program == program)
    return not is_required or (degrade and program != ENFORCER)


def explain_refusal(error: KernelError) -> str:
    """Return why a link was refused, with what the errno alone does not tell."""
    return f"{error}{_EXCLUSIVE if error.errno == errno.EPERM else ''}"


def refused(program: Program, error: KernelError) -> KernelError:
    """Return the error for a wall that cannot stand because *program* cannot be attached."""
    what = f"{program.name}: {explain_refusal(error)}{_hint(program.name)}"
    return KernelError(error.errno or errno.EPERM, what)


def _hint(program: str) -> str:
    return "" if program == ENFORCER else "; on_error: degrade starts without it"
