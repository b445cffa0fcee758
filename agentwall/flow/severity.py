# SPDX-License-Identifier: Apache-2.0
"""How serious something is, as signatures, reports and ``--fail-on`` spell it."""

from __future__ import annotations

import enum


class Severity(enum.IntEnum):
    """In rising order, so that they compare."""

    INFO = 0
    LOW = 1
    """A denied flow."""
    MEDIUM = 2
    """A denied flow into a reserved block or to a metadata service, or denials that were lost."""
    HIGH = 3
    """Mining, a tunnel; an attempt to play the DNS server."""
    CRITICAL = 4
    """The wall itself."""

    @property
    def label(self) -> str:
        """As users write it."""
        return self.name.lower()
