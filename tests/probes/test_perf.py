# SPDX-License-Identifier: Apache-2.0
"""The layout of what the kernel is told, and rings that are read round and round."""

import ctypes
import errno
import mmap
import os
import platform
import struct
import threading

import pytest
from rig.descriptors import descriptors
from rig.process import run_checked

from agentwall.errors import KernelError, UnsupportedFeatureError
from agentwall.probes import perf

SOFTWARE, DUMMY = 1, 9
RING_BYTES = 8 * mmap.PAGESIZE
RECORD_BYTES = 32
"""Of a PERF_RECORD_FORK or PERF_RECORD_EXIT: two a thread."""
LOST = 2
"""PERF_RECORD_LOST."""
LAYOUT = """
#include <linux/perf_event.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/syscall.h>
int main(void)
{
	struct perf_event_attr bits = { .mmap = 1, .task = 1, .watermark = 1, .mmap2 = 1 };

	typedef struct perf_event_attr attr;
	typedef struct perf_event_mmap_page page;

	printf("%zu %zu ", offsetof(attr, wakeup_events), offsetof(attr, config1));
	printf("%zu %zu\\n", offsetof(attr, config2), (size_t)PERF_ATTR_SIZE_VER5);
	printf("%zu %zu\\n", offsetof(page, data_head), offsetof(page, data_tail));
	printf("%llu\\n", ((unsigned long long *)&bits)[5]);
	printf("%d %d\\n", SYS_perf_event_open, SYS_bpf);
}
"""


def test_layout(tmp_path):
    """Offsets, bits and numbers of calls are those of this machine's headers."""
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(LAYOUT)
    run_checked("gcc", source, "-o", program)
    said = [[int(word) for word in line.split()] for line in run_checked(program).splitlines()]
    fields = perf.Attributes
    offsets = [fields.wakeup.offset, fields.config1.offset, fields.config2.offset]

    assert said[0] == [*offsets, ctypes.sizeof(fields)]
    assert said[1] == [perf._HEAD_AT, perf._TAIL_AT]
    assert said[2] == [perf.MMAP | perf.TASK | perf.WATERMARK | perf.MMAP2]
    assert said[3] == list(perf._NUMBERS[platform.machine()])


@pytest.mark.parametrize(
    ("text", "expected"), [("0\n", [0]), ("0-3\n", [0, 1, 2, 3]), ("0,2-3,8\n", [0, 2, 3, 8])]
)
def test_list_of_processors(text, expected):
    """The kernel's lists are single numbers and ranges."""
    assert perf._parsed(text) == expected


def test_online_processors():
    """Those on which this process may run are online."""
    assert os.sched_getaffinity(0) <= set(perf.online_cpus())


def test_unknown_machine(monkeypatch):
    """On a machine whose numbers of calls are not known, nothing is called."""
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    with pytest.raises(UnsupportedFeatureError, match=r"expected a machine of .*, got pdp11"):
        perf.open_event(perf.Attributes(), cpu=0, what="try")


def test_refusal_says_what_to_look_at():
    """Whoever lacks the right learns which."""
    text = str(perf.failure(errno.EACCES, "try"))

    assert text.startswith("try: permission denied (see kernel.perf_event_paranoid")


@pytest.mark.kernel
def test_wrong_event():
    """What the kernel does not know is refused with its reason, and no descriptor is left."""
    before = descriptors()
    with pytest.raises(KernelError, match="try: no such file or directory"):
        perf.open_event(perf.Attributes(type=0x7FFF), cpu=0, what="try")
    fd = perf.open_event(perf.Attributes(type=SOFTWARE, config=DUMMY), cpu=0, what="try")
    with pytest.raises(KernelError, match=r"ring: map [0-9]+ bytes: invalid"):
        perf.EventRing(fd, 3 * mmap.PAGESIZE, "ring")

    assert descriptors() <= before


@pytest.fixture
def ring():
    """The ends of threads and processes on one processor, on which this one runs meanwhile."""
    before = os.sched_getaffinity(0)
    cpu = min(before)
    attributes = perf.Attributes(type=SOFTWARE, config=DUMMY, flags=perf.TASK | perf.WATERMARK)
    made = perf.EventRing(perf.open_event(attributes, cpu=cpu, what="ring"), RING_BYTES, "ring")
    os.sched_setaffinity(0, {cpu})
    yield made
    os.sched_setaffinity(0, before)
    made.close()


def run_threads(times: int) -> None:
    """Begin and end so many: quickly, so that others do little there at the same time."""
    for _ in range(times):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


def places(records: bytes) -> list[tuple[int, int]]:
    """Return where each record begins, and its kind: all are whole."""
    found, at = [], 0
    while at < len(records):
        kind, _, size = struct.unpack_from("=IHH", records, at)
        found.append((at, kind))
        at += size
    assert at == len(records)
    return found


def walk(records: bytes) -> list[int]:
    return [kind for _, kind in places(records)]


@pytest.mark.kernel
def test_ring_wraps(ring):
    """Read several times its size, every record is whole, and none is lost that has room."""
    seen, octets, before = [], 0, 0
    while octets < 5 * RING_BYTES:
        run_threads(40)
        records = ring.unread()
        ring.skip(len(records))
        # What others do there while this one waits for its turn may fill the ring up to where it
        # is said that some were lost.
        seen += [
            kind
            for at, kind in places(records)
            if kind != LOST or before + at < RING_BYTES - RECORD_BYTES
        ]
        before = len(records)
        octets += before

    assert set(seen) <= {4, 7}  # PERF_RECORD_EXIT, PERF_RECORD_FORK
    assert seen.count(4) >= octets // mmap.PAGESIZE


@pytest.mark.kernel
def test_skip_in_part(ring):
    """What is not passed over is there the next time."""
    run_threads(5)
    first = ring.unread()
    size = struct.unpack_from("=IHH", first)[2]
    ring.skip(size)

    assert ring.unread()[: len(first) - size] == first[size:]


@pytest.mark.kernel
def test_full_ring(ring):
    """A ring that nobody reads is kept as it is; what did not fit is told afterwards."""
    run_threads(RING_BYTES // RECORD_BYTES)
    full = ring.unread()
    run_threads(5)
    again = ring.unread()
    ring.skip(len(full))
    run_threads(5)

    assert again == full
    assert LOST not in walk(full)
    assert LOST in walk(ring.unread())


@pytest.mark.kernel
def test_close_twice(ring):
    """A ring may be closed again."""
    ring.close()
    ring.close()

    assert ring.fd == -1
