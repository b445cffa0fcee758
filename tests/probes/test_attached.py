# SPDX-License-Identifier: Apache-2.0
"""A library is probed once, while it has users and a while after, and never too many are."""

import os

import pytest
from rig.descriptors import descriptors
from rig.places import ALL, CALLS, OFFSETS, PROBES, Places, use
from rig.probed import file_id

from agentwall.errors import KernelError
from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.probes import uprobes
from agentwall.probes.attached import (
    LINGER_S,
    MOST_CLOSING,
    MOST_REMEMBERED,
    Attached,
)
from agentwall.probes.library_file import Probed
from agentwall.probes.mappings import FileId


@pytest.fixture
def places():
    """Where probes would be."""
    return Places()


@pytest.fixture
def made(places):
    """A function that makes the bookkeeping."""
    kept = []

    def make(max_libraries: int = 2, pins=None) -> Attached:
        kept.append(Attached(ALL, max_libraries=max_libraries, pins=pins, attach=places.attach))
        return kept[-1]

    yield make
    for each in kept:
        each.close()


@pytest.fixture
def files(tmp_path):
    """A function that returns a file by number: identity and descriptor."""
    fds = {}

    def file(number: int) -> tuple[FileId, int]:
        if number not in fds:
            path = tmp_path / f"libssl{number}.so"
            path.write_bytes(b"x" * (number + 1))
            fds[number] = os.open(path, os.O_RDONLY)
        return file_id(tmp_path / f"libssl{number}.so"), fds[number]

    yield file
    for fd in fds.values():
        os.close(fd)


def test_every_call(made, files, places):
    """Every call that the file exports is attached, returns first, each with its own cookie."""
    attached = made()
    state = use(attached, files(1), "a", 5.0)
    program = ALL.__getitem__

    assert (state.unread, state.library, state.since_s) == (None, TlsLibrary.OPENSSL, 5.0)
    assert [each[:3] for each in places.asked] == [
        (program("aw_hear_back"), 32, True),
        (program("aw_say"), 16, False),
        (program("aw_hear"), 32, False),
        (program("aw_end"), 48, False),
    ]
    assert len({each[3] for each in places.asked}) == PROBES


def test_once(made, files, places):
    """More users of a file attach nothing; it is described once, with how many there are."""
    attached = made()
    for user in range(300):
        use(attached, files(1), user)

    assert len(places.asked) == PROBES
    assert attached.libraries() == [
        Probed(
            file=files(1)[0],
            path="/libssl.so",
            library=TlsLibrary.OPENSSL,
            users=frozenset(range(300)),
            since_s=0.0,
            calls=tuple(CALLS),
        )
    ]
    assert sorted(attached.users()) == list(range(300))
    assert attached.users_of(files(1)[0]) == frozenset(range(300))


def test_one_name_for_two(made, files, places):
    """Two names of one function are one place for one program."""
    attached = made()
    offsets = {**OFFSETS, "SSL_connect": 80, "SSL_accept": 80}
    attached.use(*files(1), TlsLibrary.OPENSSL, offsets, "a", "/libssl.so", 0.0)

    assert len(places.asked) == PROBES + 1


def test_linger(made, files, places):
    """Without users it stays a while: who comes within it finds it, and then it is taken off."""
    attached = made()
    use(attached, files(1), "a", 0.0)
    attached.drop("a", 1.0)
    attached.expire(LINGER_S)
    use(attached, files(1), "b", LINGER_S)
    attached.drop("b", LINGER_S)
    attached.expire(2 * LINGER_S - 1)
    before = (len(attached), len(places.asked))
    attached.expire(2 * LINGER_S)
    steps = [attached.close_some() for _ in range(PROBES)]

    assert before == (1, PROBES)
    assert len(attached) == 0
    assert steps == [True, True, True, False]
    assert places.standing == 0
    assert attached.state_of(files(1)[0]) is None


def test_user_of_two(made, files):
    """A process that maps two libraries is gone from both; others stay."""
    attached = made()
    for number in (1, 2):
        use(attached, files(number), "a")
    use(attached, files(2), "b")
    attached.drop("a", 0.0)
    attached.drop("unknown", 0.0)
    attached.expire(LINGER_S)

    assert attached.state_of(files(1)[0]) is None
    assert attached.users_of(files(2)[0]) == {"b"}


def test_limit(made, files):
    """Beyond the limit a file is refused and counted, and attached when room appears."""
    attached = made(1)
    use(attached, files(1), "a")
    refused = use(attached, files(2), "b", 3.0)
    again = use(attached, files(2), "c", 4.0)
    attached.drop("a", 7.0)
    state = attached.state_of(files(2)[0])

    assert (refused.unread, again.unread) == (Unread.LIMIT, Unread.LIMIT)
    assert attached.refused_limit == 1
    assert (state.unread, state.since_s) == (None, 7.0)
    assert attached.attached_total == 2
    assert len(attached) == 1


def test_first_come(made, files):
    """Of those that wait, the one that came first gets the room."""
    attached = made(1)
    for number in (1, 2, 3):
        use(attached, files(number), number, float(number))
    attached.drop(1, 9.0)

    assert [attached.state_of(files(number)[0]) is None for number in (1, 2, 3)] == [
        True,
        False,
        False,
    ]
    assert attached.state_of(files(2)[0]).unread is None
    assert attached.state_of(files(3)[0]).unread is Unread.LIMIT


def test_idle_makes_room(made, files):
    """At the limit, what has been without users for longest makes room at once."""
    attached = made(2)
    for number in (1, 2):
        use(attached, files(number), number)
    attached.drop(2, 1.0)
    attached.drop(1, 2.0)
    state = use(attached, files(3), 3, 3.0)

    assert state.unread is None
    assert attached.state_of(files(2)[0]) is None
    assert attached.state_of(files(1)[0]).unread is None


def test_refused_without_users(made, files):
    """A refused file whose users are gone is forgotten, with the descriptor that was kept of it."""
    attached = made(1)
    use(attached, files(1), "a")
    before = descriptors()
    files(2)
    use(attached, files(2), "b")
    held = descriptors()
    attached.drop("b", 1.0)

    assert len(held - before) == 2
    assert len(descriptors() - before) == 1
    assert attached.state_of(files(2)[0]) is None


def test_more_room(made, files):
    """A higher limit lets in who waits."""
    attached = made(1)
    for number in (1, 2):
        use(attached, files(number), number)
    attached.max_libraries = 2
    attached.expire(1.0)

    assert attached.state_of(files(2)[0]).unread is None


def test_half_attached(made, files, places):
    """A file of which one call cannot be probed is not probed at all, and the reason is kept."""
    attached = made()
    places.refused = {OFFSETS["SSL_free"]}
    state = use(attached, files(1), "a")
    again = use(attached, files(1), "b", LINGER_S - 1)
    while attached.close_some():
        pass

    assert state.unread is Unread.UNREADABLE
    assert state.reason == "SSL_free: open uprobe: invalid argument"
    assert again == state
    assert (attached.unreadable, attached.attached_total, len(attached)) == (1, 0, 0)
    assert places.standing == 0


def test_failure_is_tried_again(made, files, places):
    """After a while the next user has it tried again."""
    attached = made()
    places.refused = {OFFSETS["SSL_free"]}
    use(attached, files(1), "a")
    places.refused = set()
    state = use(attached, files(1), "b", LINGER_S)

    assert state.unread is None
    assert attached.users_of(files(1)[0]) == {"a", "b"}


def test_written_over(made, files, places, tmp_path):
    """A file that is written over in place is probed anew, after all probes of before are off."""
    attached = made()
    use(attached, files(1), "a")
    (tmp_path / "libssl1.so").write_bytes(b"something else")
    state = use(attached, files(1), "b", 1.0)
    asked = len(places.asked)
    while attached.close_some():
        attached.expire(2.0)
    left = places.standing
    attached.expire(3.0)

    assert state.unread is Unread.LIMIT
    assert (asked, left) == (PROBES, 0)
    assert attached.state_of(files(1)[0]).since_s == 3.0
    assert attached.users_of(files(1)[0]) == {"a", "b"}
    attached.drop("a", 4.0)
    assert attached.users_of(files(1)[0]) == {"b"}


def test_many_files(made, files):
    """However many files there are, so many are remembered and no more."""
    attached = made(1)
    states = [use(attached, files(number), number).unread for number in range(700)]
    known = [number for number in range(700) if attached.state_of(files(number)[0])]

    assert states == [None] + [Unread.LIMIT] * 699
    assert len(known) == MOST_REMEMBERED + 1
    assert attached.refused_limit == 699


def test_queue_is_bounded(made, files, places):
    """Files and processes that come and go faster than probes can be taken off have to wait."""
    attached = made(1)
    longest = 0
    for number in range(200):
        use(attached, files(number), number, float(number))
        attached.drop(number, float(number))
        longest = max(longest, places.standing)

    assert longest <= MOST_CLOSING // 2 + 2 * PROBES
    assert attached.refused_limit > 0


def test_failures_fill_the_queue(made, files, places):
    """Files that can be probed only in part do not make the queue grow without end."""
    attached = made(1)
    places.refused = {OFFSETS["SSL_free"]}
    states = [use(attached, files(number), number).unread for number in range(200)]

    assert places.standing <= MOST_CLOSING + PROBES
    assert {Unread.UNREADABLE, Unread.LIMIT} == set(states)


def test_pins_are_distinct(made, files, tmp_path):
    """A file that is probed again while it is still being taken off has pins of other names."""
    pins = tmp_path / "pins"
    attached = made(1, pins)
    use(attached, files(1), "a")
    first = {each.name for each in uprobes.pinned(pins)}
    attached.drop("a", 0.0)
    attached.expire(LINGER_S)
    gone = uprobes.pinned(pins)
    use(attached, files(1), "b", LINGER_S)
    second = {each.name for each in uprobes.pinned(pins)}

    assert len(first) == len(second) == PROBES
    assert gone == []
    assert not first & second
    assert {name.partition("-")[2] for name in first} == {
        *("SSL_write", "SSL_read", "SSL_read-back", "SSL_free")
    }


def test_keep(made, files, places, tmp_path):
    """keep() leaves the pins and nothing else; close() leaves nothing."""
    pins = tmp_path / "pins"
    kept, closed = made(2, pins), made(2, tmp_path / "others")
    for attached in (kept, closed):
        use(attached, files(1), "a")
    kept.keep()
    closed.close()

    assert places.standing == 0
    assert len(uprobes.pinned(pins)) == PROBES
    assert not (tmp_path / "others").exists()
    assert len(kept) == len(closed) == 0


def test_no_directory(tmp_path):
    """Where the directory for pins cannot be made, the message says so."""
    with pytest.raises(KernelError, match="make a directory: no such file"):
        Attached(ALL, max_libraries=1, pins=tmp_path / "a" / "b")
