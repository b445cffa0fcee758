# SPDX-License-Identifier: Apache-2.0
"""Sees that policies, signatures or the configuration have changed, so that they are read again."""

from __future__ import annotations

import contextlib
import os
import time

from agentwall.daemon.edition import Edition
from agentwall.host.inotify import OVERFLOW, Event, Inotify

SETTLE_S = 0.5
"""Editors and ``git checkout`` write many files: what follows within that long counts as one."""
MAX_DELAY_S = 5.0


class FileWatch:
    """Watches the directories of an edition's files."""

    def __init__(self, edition: Edition) -> None:
        self._inotify = Inotify()
        self._content: set[int] = set()
        """Numbers of watches on directories of files."""
        self._places: dict[int, set[str]] = {}
        """Names that matter in others, by number of the watch."""
        self._first_s: float | None = None
        self._last_s = 0.0
        self.problems: dict[str, str] = {}
        """Why changes are not seen, by directory."""
        self._is_on = edition.config.watch
        self._add(edition)

    def fileno(self) -> int:
        """Return the descriptor that is readable when something changed."""
        return self._inotify.fileno()

    def renew(self, edition: Edition) -> None:
        """Watch what another edition was read from."""
        self._is_on = edition.config.watch
        self._add(edition)

    def _add(self, edition: Edition) -> None:
        self.problems.clear()
        for directory in edition.directories if self._is_on else ():
            try:
                self._content.add(self._inotify.watch_content(directory))
            except OSError as err:
                why = os.strerror(err.errno or 0).lower()
                self.problems[directory] = f"changes are not seen: {why}"
        if self._is_on:
            self._add_place(os.path.abspath(edition.config.policies))

    def _add_place(self, directory: str) -> None:
        # A link that is turned to another directory, or one that comes only later.
        parent, name = os.path.split(directory)
        with contextlib.suppress(OSError):
            self._places.setdefault(self._inotify.watch_content(parent), set()).add(name)

    def read(self) -> None:
        """Take what changed; :meth:`is_due` says when to act on it."""
        if any(map(self._matters, self._inotify.read())) and self._is_on:
            self._last_s = time.monotonic()
            self._first_s = self._first_s or self._last_s

    def _matters(self, event: Event) -> bool:
        if event.mask & OVERFLOW or event.watch in self._content:
            return True
        return event.name in self._places.get(event.watch, ())

    def settle(self) -> None:
        """Forget what has changed so far: all of it is about to be read."""
        self._inotify.read()
        self._first_s = None

    def is_due(self, now_s: float) -> bool:
        """Say, once, that something has changed and no more does."""
        if self._first_s is None:
            return False
        if now_s - self._last_s < SETTLE_S and now_s - self._first_s < MAX_DELAY_S:
            return False
        self._first_s = None
        return True

    def close(self) -> None:
        """End the watch."""
        self._inotify.close()
