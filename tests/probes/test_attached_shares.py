# SPDX-License-Identifier: Apache-2.0
"""One sandbox cannot have all the probes: what it has too many of gives way, and that is told."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from rig.descriptors import descriptors
from rig.places import ALL, OFFSETS, PROBES, Places

from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.probes.attached import LINGER_S, MOST_CLOSING, MOST_REMEMBERED, Attached
from agentwall.probes.library_file import FileState
from agentwall.probes.mappings import FileId

MAX = 8
NAME = "shared-file"


class Books:
    """The bookkeeping, and files by number."""

    def __init__(self) -> None:
        self.places = Places()
        self.attached = Attached(ALL, max_libraries=MAX, pins=None, attach=self.places.attach)
        self._fd = os.memfd_create(NAME)
        self._process = 0

    def use(
        self,
        file: int,
        sandbox: str,
        now_s: float = 0.0,
        *,
        is_system: bool = False,
        is_ahead: bool = False,
    ) -> FileState:
        """Have a new process of *sandbox* map a file."""
        self._process += 1
        return self.attached.use(
            FileId(1, file),
            self._fd,
            TlsLibrary.OPENSSL,
            OFFSETS,
            (sandbox, self._process),
            "/libssl.so",
            now_s,
            is_system=is_system,
            is_ahead=is_ahead,
        )

    def fill(self, sandbox: str, count: int = MAX, first: int = 0) -> None:
        """Have a sandbox map as many files, each by a process of its own."""
        for file in range(first, first + count):
            self.use(file, sandbox, float(file))

    def why(self, file: int) -> Unread | None:
        """Return why a file is not read; None: it is."""
        state = self.attached.state_of(FileId(1, file))
        assert state is not None
        return state.unread

    def close_all(self) -> None:
        """Have all done that waits for time."""
        while self.attached.close_some(MOST_CLOSING):
            pass

    def end(self) -> None:
        """Give everything back."""
        self.attached.close()
        os.close(self._fd)


@pytest.fixture
def books() -> Iterator[Books]:
    """Nothing probed yet."""
    made = Books()
    yield made
    made.end()


def test_the_other_sandbox_is_read(books):
    """Where one sandbox has all the probes, another's library is probed in place of one of them."""
    books.fill("greedy")
    state = books.use(100, "modest", 50.0)

    assert state.unread is None
    assert len(books.attached) == MAX
    assert (books.attached.displaced, books.attached.refused_limit) == (1, 0)
    assert [books.why(file) for file in range(MAX)] == [Unread.LIMIT] + [None] * (MAX - 1)


def test_who_is_displaced_is_told(books):
    """Whose file was displaced is to be looked at again, once; and when it is read again."""
    books.fill("greedy")
    books.use(0, "greedy", 0.5)
    books.use(1, "greedy", 60.0)
    before = books.attached.take_changed()
    books.use(100, "modest", 61.0)
    displaced = books.attached.take_changed()
    books.attached.drop(("modest", MAX + 3), 62.0)
    books.attached.expire(62.0 + LINGER_S)
    again = books.attached.take_changed()

    assert before == set()
    assert displaced == again == {("greedy", 1), ("greedy", MAX + 1)}
    assert books.attached.take_changed() == set()
    assert books.why(0) is None


def test_each_has_its_share(books):
    """Sandboxes that want all get as much each, and nobody anything from one with as much."""
    books.fill("greedy")
    for file in range(100, 100 + MAX):
        books.use(file, "other", 10.0)
        books.close_all()
    displaced = books.attached.displaced
    for second in range(100):
        books.use(200 + second, ("greedy", "other")[second % 2], 20.0 + second)
        books.attached.expire(20.0 + second)
        books.close_all()
    mine = [each for each in books.attached.libraries() if {u[0] for u in each.users} == {"other"}]

    assert len(books.attached) == MAX
    assert len(mine) == MAX // 2
    assert displaced == books.attached.displaced == MAX // 2


def test_waiting_takes_its_place_later(books):
    """Who finds the queue of what is taken off full gets a place when it is shorter."""
    books.fill("greedy")
    states = [books.use(100 + each, f"modest{each}").unread for each in range(MAX - 1)]
    longest = books.places.standing
    while Unread.LIMIT in [books.why(100 + each) for each in range(MAX - 1)]:
        books.close_all()
        books.attached.expire(1.0)

    assert None in states
    assert longest <= MOST_CLOSING // 2 + PROBES * (MAX + 1)
    assert len(books.attached) == MAX


def test_room_goes_to_who_has_least(books):
    """A place that becomes free is not the greedy one's, though it has waited longer."""
    books.fill("greedy", MAX - 2)
    books.fill("other", 2, first=50)
    books.fill("greedy", 5, first=20)
    # More than its share: it would have to wait.
    books.use(60, "other", 30.0)
    books.attached.drop(("greedy", 1), 40.0)
    books.attached.expire(40.0 + LINGER_S)

    assert books.why(60) is None
    assert books.why(20) is Unread.LIMIT


def test_the_hosts_library_stays(books):
    """What the host's own programs use is displaced by nobody, and finds room."""
    books.use(0, "greedy", 0.0, is_system=True)
    books.fill("greedy", MAX - 1, first=1)
    for each in range(MAX - 1):
        books.use(100 + each, f"modest{each}", 10.0)
        books.close_all()
        books.attached.expire(10.0)
    state = books.use(200, "modest", 11.0, is_system=True)

    assert books.why(0) is None
    assert state.unread is Unread.LIMIT  # each of the others has one
    assert len(books.attached) == MAX


def test_what_nobody_maps_yet(books):
    """A library that is only installed somewhere takes nobody's place, until it is mapped."""
    books.fill("greedy")
    found = [books.use(100, "modest", 10.0, is_ahead=True, is_system=each) for each in (0, 1)]
    books.attached.expire(11.0)
    before = books.attached.displaced
    mapped = books.use(100, "modest", 12.0)

    assert [each.unread for each in found] == [Unread.LIMIT] * 2
    assert before == 0
    assert mapped.unread is None
    assert mapped.since_s == 12.0


def test_idle_goes_first(books):
    """What nobody uses gives way before what somebody does."""
    books.fill("greedy")
    books.attached.drop(("greedy", 5), 20.0)
    books.use(100, "modest", 21.0)

    assert books.attached.displaced == 0
    assert books.attached.state_of(FileId(1, 4)) is None


def test_files_without_end_are_forgotten_first(books):
    """A sandbox with files without end does not have those of others forgotten that wait."""
    books.fill("one", MAX)
    books.use(MAX, "two", 9.0)
    books.fill("two", MAX - 2, first=MAX + 1)
    books.use(5000, "modest")
    books.close_all()
    books.fill("greedy", MOST_REMEMBERED + 50, first=1000)
    kept = [f for f in range(6000) if books.attached.state_of(FileId(1, f)) is not None]

    assert len(kept) <= MAX + MOST_REMEMBERED
    assert 5000 in kept
    assert all(file in kept for file in range(2 * MAX - 1))


def test_displaced_and_left(books):
    """What was displaced is forgotten when its users are gone, with its descriptor."""
    books.fill("greedy")
    books.use(100, "modest", 50.0)
    before = held()
    books.attached.drop(("greedy", 1), 51.0)

    assert books.attached.state_of(FileId(1, 0)) is None
    assert held() == before - 1


def held() -> int:
    """Return how many descriptors there are of files of :class:`Books`."""
    return sum(leads_to.startswith(f"/memfd:{NAME}") for _, leads_to in descriptors())
