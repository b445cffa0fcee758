# SPDX-License-Identifier: Apache-2.0
"""A file counts its users by sandbox, and keeps one descriptor of itself at most."""

import os

from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.probes.library_file import LibraryFile, stamp_of
from agentwall.probes.mappings import FileId


def library() -> LibraryFile:
    """Return a file that nobody uses."""
    return LibraryFile(
        file=FileId(1, 2),
        path="/libssl.so",
        library=TlsLibrary.OPENSSL,
        offsets={},
        stamp=(0, 0),
        since_s=0.0,
    )


def test_users_by_sandbox():
    """A user counts once, for its sandbox; a sandbox without users does not count."""
    made = library()
    for user in [("a", 1), ("a", 2), ("b", 3), ("a", 1), "alone"]:
        made.add(user, 5.0)
    before = dict(made.owners)
    for user in [("b", 3), ("a", 1), ("b", 3), ("c", 9)]:
        made.discard(user)

    assert before == {"a": 2, "b": 1, "alone": 1}
    assert dict(made.owners) == {"a": 1, "alone": 1}
    assert made.users == {("a", 2), "alone"}
    assert made.used_s == 5.0


def test_a_user_ends_idleness():
    """A file that was left is not idle any more once somebody maps it."""
    made = library()
    made.idle_s = 1.0
    made.add(("a", 1), 2.0)

    assert made.idle_s is None


def test_waits_with_a_descriptor(tmp_path):
    """It can wait for room as long as it has a descriptor of its own, and has only one."""
    made = library()
    with (tmp_path / "libssl.so").open("wb") as file:
        made.unread = Unread.LIMIT
        alone = made.is_waiting
        made.hold(file.fileno())
        fd = made.fd
        made.hold(file.fileno())

        assert not alone
        assert made.is_waiting
        assert made.fd == fd != file.fileno()
        assert os.path.sameopenfile(fd, file.fileno())
    made.let_go()
    made.let_go()

    assert not made.is_waiting
    assert made.state().unread is Unread.LIMIT


def test_stamp_changes_with_the_file(tmp_path):
    """What is written over in place has another stamp."""
    path = tmp_path / "libssl.so"
    path.write_bytes(b"one")
    with path.open("rb") as file:
        before = stamp_of(file.fileno())
        path.write_bytes(b"another")

        assert stamp_of(file.fileno()) != before
