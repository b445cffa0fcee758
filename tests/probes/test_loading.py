# SPDX-License-Identifier: Apache-2.0
"""Code becomes programs with the maps of whichever wall is named, or an error that says why not."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rig.descriptors import descriptors
from rig.probing import PATIENCE_S, pinned_maps

from agentwall.errors import KernelError, VerifierError
from agentwall.kernel import plain
from agentwall.probes import compiling, perf
from agentwall.probes.code import INSTRUCTION, Code
from agentwall.probes.compiling import Compilation
from agentwall.probes.libraries import PROGRAMS
from agentwall.probes.loading import Loading, has_cookies, load

WHY_NOT = compiling.why_not()
needs_bcc = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
pytestmark = pytest.mark.kernel

KPROBE = 2
"""BPF_PROG_TYPE_KPROBE."""
EXIT = INSTRUCTION.pack(0x95, 0, 0, 0)
RETURN_0 = INSTRUCTION.pack(0xB7, 0, 0, 0) + EXIT
LOOK_UP_UNCHECKED = b"".join(
    (
        INSTRUCTION.pack(0x18, 1 | 1 << 4, 0, 0) + bytes(8),  # r1 = the first map
        INSTRUCTION.pack(0x7A, 10, -8, 0),  # *(u64 *)(r10 - 8) = 0
        INSTRUCTION.pack(0xBF, 2 | 10 << 4, 0, 0)
        + INSTRUCTION.pack(0x07, 2, 0, -8),  # r2 = r10 - 8
        INSTRUCTION.pack(0x85, 0, 0, 1),  # bpf_map_lookup_elem()
        INSTRUCTION.pack(0x79, 0, 0, 0),  # r0 = *(u64 *)r0
        EXIT,
    )
)


def code_of(**programs: bytes) -> Code:
    return Code(
        programs=programs,
        maps=("aw_plain_cgroups",),
        has_cookies=False,
        bcc="0",
        seconds=0.0,
        peak_kib=0,
    )


@pytest.fixture(scope="module")
def pin_dir(tmp_path_factory) -> Iterator[Path]:
    """Where the maps are pinned."""
    if reason := plain.why_not():
        pytest.skip(f"aw_plain: {reason}")
    with pinned_maps(tmp_path_factory.mktemp("maps")) as (_, directory):
        yield directory


@needs_bcc
def test_programs(pin_dir):
    """Each is loaded with the wall's maps, in a descriptor that no other process inherits."""
    with Compilation(timeout_s=PATIENCE_S) as compilation:
        compilation.start()
        code = compilation.wait()
    before = descriptors()
    with closing(load(code, pin_dir)) as programs:
        infos = [Path(f"/proc/self/fdinfo/{fd}").read_text() for fd in programs.fds.values()]
        inherited = [fd for fd in programs.fds.values() if os.get_inheritable(fd)]
        opened = len(descriptors() - before)

    assert tuple(programs.fds) == PROGRAMS
    assert all(f"prog_type:\t{KPROBE}\n" in info for info in infos)
    assert inherited == []
    assert opened == len(PROGRAMS)
    assert descriptors() <= before


def test_a_step_at_a_time(pin_dir):
    """Each step loads one program; what was loaded ends with a loading that is given up."""
    before = descriptors()
    with Loading(code_of(aw_one=RETURN_0, aw_two=RETURN_0, aw_three=RETURN_0), pin_dir) as loading:
        steps = [loading.step(), loading.step()]
        opened = len(descriptors() - before)
    after = descriptors()

    assert steps == [None, None]
    assert opened == 3  # and the map
    assert after <= before


def test_no_pins(tmp_path, pin_dir):
    """A map that is not pinned is named, and so is what is there in its place."""
    before = descriptors()
    with pytest.raises(KernelError) as missing:
        load(code_of(aw_one=RETURN_0), tmp_path)
    (tmp_path / "aw_plain_cgroups").touch()
    with pytest.raises(KernelError) as no_pin:
        load(code_of(aw_one=RETURN_0), tmp_path)

    path = f"{tmp_path}/aw_plain_cgroups"
    assert str(missing.value) == f"{path}: open pinned map: no such file or directory"
    assert str(no_pin.value).startswith(f"{path}: open pinned map: ")
    assert descriptors() <= before


def test_refused_by_the_verifier(pin_dir):
    """A program that the kernel refuses is named, with the line of the verifier that says why."""
    before = descriptors()
    with pytest.raises(VerifierError) as caught:
        load(code_of(aw_one=RETURN_0, aw_bad=LOOK_UP_UNCHECKED), pin_dir)

    assert str(caught.value) == "load aw_bad: R0 invalid mem access 'map_value_or_null'"
    assert "R0" in caught.value.log
    assert descriptors() <= before


def test_refused_for_another_reason(pin_dir, monkeypatch):
    """Where the verifier has said nothing the errno is what is known."""

    def refuse(_command: int, _asked: object, what: str) -> int:
        raise perf.failure(errno.EPERM, what)

    with Loading(code_of(aw_one=RETURN_0), pin_dir) as loading:
        monkeypatch.setattr(perf, "bpf", refuse)
        with pytest.raises(KernelError) as caught:
            loading.step()

    assert str(caught.value).startswith("load aw_one: operation not permitted (see ")
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("times", [1, 4, 5])
def test_interrupted(pin_dir, monkeypatch, times):
    """A verifier that gave up for a signal is asked again, a few times."""
    ask, left = perf.bpf, [times]

    def interrupted(command: int, asked: ctypes.Structure, what: str) -> int:
        if left[0] and not asked.log_level:
            left[0] -= 1
            raise perf.failure(errno.EAGAIN, what)
        return ask(command, asked, what)

    with Loading(code_of(aw_one=RETURN_0), pin_dir) as loading:
        monkeypatch.setattr(perf, "bpf", interrupted)
        with closing(loading.step()) as programs:
            assert set(programs.fds) == {"aw_one"}
    assert left == [0]


def test_cookies_are_tried(monkeypatch):
    """Whether there are cookies, the kernel says: a helper that none has is not there."""
    here = has_cookies()
    unknown = INSTRUCTION.pack(0x85, 0, 0, 100_000) + RETURN_0
    monkeypatch.setattr("agentwall.probes.loading._ASKS_FOR_COOKIE", unknown)

    assert here == (tuple(map(int, os.uname().release.split(".")[:2])) >= (5, 15))
    assert not has_cookies()
