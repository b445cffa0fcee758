# SPDX-License-Identifier: Apache-2.0
"""Programs are compiled once for a kernel; what cannot be trusted or loaded is compiled anew."""

from __future__ import annotations

import logging
import os
import select
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rig.descriptors import descriptors
from rig.inside_ground import inside_ground
from rig.namespace import temp_netns
from rig.probing import PATIENCE_S, pinned_maps
from rig.tls_programs import copy_libraries
from rig.tls_service import tls_service
from rig.tls_talker import CHAT, MINING, SILENCE_S, talking

from agentwall.daemon import provision
from agentwall.daemon.provision import Provision, keep_code, kept_code
from agentwall.errors import KernelError, ProbesRefusedError
from agentwall.host import kept_files
from agentwall.kernel import plain
from agentwall.probes import compiling
from agentwall.probes.code import INSTRUCTION, Code
from agentwall.probes.compiling import Compilation
from agentwall.probes.libraries import PROGRAMS
from agentwall.probes.loading import Programs

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def code() -> Code:
    """What is compiled here."""
    if reason := compiling.why_not():
        pytest.skip(reason)
    with Compilation(timeout_s=PATIENCE_S) as compilation:
        compilation.start()
        return compilation.wait()


@pytest.fixture(scope="module")
def pin_dir(tmp_path_factory) -> Iterator[Path]:
    """Where the maps are pinned."""
    if reason := plain.why_not():
        pytest.skip(f"aw_plain: {reason}")
    with pinned_maps(tmp_path_factory.mktemp("maps")) as (_, directory):
        yield directory


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own, empty."""
    directory = tmp_path / "cache"
    monkeypatch.setattr(kept_files, "SYSTEM_CACHE", directory)
    monkeypatch.setattr(compiling, "TIMEOUT_S", PATIENCE_S)
    return directory


@pytest.fixture
def compiles(monkeypatch) -> list[Compilation]:
    """The compilations that are started."""
    started: list[Compilation] = []

    class Watched(Compilation):
        def start(self) -> None:
            started.append(self)
            super().start()

    monkeypatch.setattr(provision, "Compilation", lambda: Watched(timeout_s=PATIENCE_S))
    return started


def provided(*provisions: Provision) -> list[Programs]:
    """Go on with all of them in turn, each when it is ready; close what comes of it."""
    found: dict[Provision, Programs] = {}
    while len(found) < len(provisions):
        left = [each for each in provisions if each not in found]
        ready, _, _ = select.select(left, [], [], PATIENCE_S)
        assert ready
        for each in ready:
            programs = each.result()
            if programs is not None:
                found[each] = programs
                programs.close()
    return [found[each] for each in provisions]


def provide(pin_dir: Path) -> tuple[Programs, bool]:
    """Return the programs, closed, and whether they were kept."""
    with Provision() as made:
        made.start()
        made.load_for(pin_dir)
        [programs] = provided(made)
        return programs, made.is_kept


def test_once(pin_dir, cache, compiles):
    """The first start compiles and keeps for root alone; the second has no child."""
    _, was_kept = provide(pin_dir)
    [kept] = cache.iterdir()
    programs, is_kept = provide(pin_dir)

    assert (was_kept, is_kept, len(compiles)) == (False, True, 1)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert tuple(programs.fds) == PROGRAMS


def test_two_at_once(pin_dir, cache, compiles):
    """Two first starts at the same time both compile and keep, and get in nobody's way."""
    with Provision() as one, Provision() as other:
        for each in (one, other):
            each.start()
            each.load_for(pin_dir)
        provided(one, other)
    _, is_kept = provide(pin_dir)

    assert len(compiles) == 2
    assert is_kept
    assert len(list(cache.iterdir())) == 1


def test_a_program_at_a_time(code, pin_dir):
    """Whoever polls is called again for each program, and does other things between them."""
    keep_code(code)
    before = descriptors()
    with Provision() as made:
        made.start()
        made.load_for(pin_dir)
        steps = 0
        while (programs := made.result()) is None:
            steps += 1
            assert select.select([made], [], [], 0)[0]
        programs.close()

    assert steps == len(PROGRAMS) - 1
    assert descriptors() <= before


def damage(directory: Path) -> None:
    [path] = directory.iterdir()
    octets = bytearray(path.read_bytes())
    octets[-1] ^= 1
    path.write_bytes(octets)


def cut_short(directory: Path) -> None:
    [path] = directory.iterdir()
    os.truncate(path, path.stat().st_size - 8)


def open_to_others(directory: Path) -> None:
    directory.chmod(0o777)


def open_file_to_others(directory: Path) -> None:
    [path] = directory.iterdir()
    path.chmod(0o666)


def give_away(directory: Path) -> None:
    os.chown(directory, 65534, 65534)


@pytest.mark.parametrize(
    "spoil", [damage, cut_short, open_to_others, open_file_to_others, give_away]
)
def test_not_trusted(code, cache, spoil: Callable[[Path], None]):
    """What is damaged, or somebody else could have written, is not there."""
    keep_code(code)
    before = kept_code()
    spoil(cache)

    assert before == code
    assert kept_code() is None


def test_another_kernel(code, monkeypatch):
    """What was compiled for another kernel stays where it is, and is not used."""
    keep_code(code)
    there = os.uname()
    other = os.uname_result((*there[:3], "#2 SMP another build", there[4]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "uname", lambda: other)
        elsewhere = kept_code()
        keep_code(replace(code, bcc="0.1"))

    assert elsewhere is None
    assert kept_code() == code


def test_other_programs(code, monkeypatch):
    """What was kept for other programs is not taken for these."""
    monkeypatch.setattr(provision, "_digest", lambda: "00")
    keep_code(replace(code, programs={"aw_say": code.programs["aw_say"]}))

    assert kept_code() is None


def test_refused_by_the_kernel(code, pin_dir, compiles, caplog):
    """What the kernel does not take is compiled anew, which is said, and kept in its place."""
    bad = dict(code.programs)
    # Whole, and with a good checksum: a program that goes on beyond its end.
    bad[PROGRAMS[3]] = bad[PROGRAMS[3]][: -INSTRUCTION.size] + INSTRUCTION.pack(0xB7, 0, 0, 0)
    keep_code(replace(code, programs=bad))
    before = descriptors()
    with caplog.at_level(logging.WARNING):
        _, is_kept = provide(pin_dir)
    opened = descriptors() - before

    assert (is_kept, len(compiles), opened) == (False, 1, set())
    assert "compiled anew: the kernel refuses what was kept: load aw_" in caplog.text
    assert provide(pin_dir)[1]


def test_no_maps(code, tmp_path, compiles):
    """Where the wall's maps are not there nothing helps, and nothing is kept of it."""
    keep_code(code)
    with Provision() as made:
        made.start()
        made.load_for(tmp_path)
        with pytest.raises(KernelError, match="open pinned map: no such file"):
            provided(made)

    assert len(compiles) == 1


def test_nobody_compiles(code, pin_dir, monkeypatch):
    """Without bcc it is said at the start; with what was kept nobody is missed."""
    monkeypatch.setattr(provision, "Compilation", lambda: Compilation(interpreters=("/no/python",)))
    with Provision() as made, pytest.raises(ProbesRefusedError, match="expected an interpreter"):
        made.start()
    keep_code(code)

    assert provide(pin_dir)[1]


def test_cannot_be_kept(pin_dir, cache, compiles):
    """A directory that takes nothing costs a compilation each time, and no more."""
    cache.write_text("in the way")
    starts = [provide(pin_dir)[1] for _ in range(2)]

    assert starts == [False, False]
    assert len(compiles) == 2


def test_closed_early(compiles):
    """Closing ends the child, at whatever point it is."""
    made = Provision()
    made.start()
    [child] = [each._process.pid for each in compiles if each._process is not None]
    made.close()
    made.close()

    assert not Path(f"/proc/{child}").exists()


def test_kept_code_reads(code, tmp_path, monkeypatch):
    """Probes of kept code read a real client, whose mining is cut with nothing of it sent."""
    if reason := plain.why_not():
        pytest.skip(f"aw_plain: {reason}")
    keep_code(code)
    monkeypatch.setattr(provision, "Compilation", lambda: Compilation(interpreters=("/no/python",)))
    libraries, place = tmp_path / "libraries", tmp_path / "inside"
    libraries.mkdir()
    place.mkdir()
    copy_libraries(libraries)
    with (
        temp_netns("kept") as here,
        tls_service(here, "127.0.0.1") as pool,
        inside_ground(place) as ground,
    ):
        ground.inside.start()
        ground.inside.wait()
        state = ground.inside.state()
        with talking(ground.cgroup, here, libraries) as one:
            ground.go_on(lambda: ground.reading_of(one.pid))
            said = one.connect(pool.port), one.say(CHAT)
            ground.hear()
            ground.settle()
            mined, delivered = one.say(MINING, SILENCE_S), pool.talks[0].text.decode()
        counts = ground.inside.state()

    assert (state.state, state.bcc, state.compile_s) == ("on", code.bcc, None)
    assert said == ("connected", "answered")
    assert (mined, delivered) == ("silence", CHAT)
    assert (counts.connections, counts.joined, counts.lost) == (1, 1, 0)
