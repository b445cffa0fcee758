# SPDX-License-Identifier: Apache-2.0
"""The automaton that a signature set compiles to, in the shape of the kernel's table.

One table with one start state for each transport and side. The kernel takes one step a byte:
``state = next[state * width + classes[byte]]``; a state from ``first_accepting`` on has matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentwall.detect.signature import Side, Transport

DEAD = 0
"""The state that nothing leaves: no signature can match any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Automaton:
    """A complete deterministic automaton, minimised. Equal input makes equal tables."""

    classes: bytes
    """256 of them: the class of each byte, below :attr:`width`."""
    width: int
    """How many classes there are: the columns of :attr:`next`."""
    next: npt.NDArray[np.uint16]
    """Shape (states, width). Row :data:`DEAD` is all :data:`DEAD`."""
    starts: Mapping[tuple[Transport, Side], int]
    """Where each kind of stream begins; :data:`DEAD` where no signature listens."""
    first_accepting: int
    """States from here on have matched with the byte that led to them."""
    accepts: tuple[tuple[int, ...], ...]
    """Sets of indices into ``SignatureSet.signatures``, each sorted. Set 0 is empty."""
    accept_of: npt.NDArray[np.uint16]
    """Shape (states,): index into :attr:`accepts`; 0 below :attr:`first_accepting`."""
    end_of: npt.NDArray[np.uint16]
    """Shape (states,): index into :attr:`accepts` if a datagram ends in this state; or 0."""

    @property
    def states(self) -> int:
        """How many there are, :data:`DEAD` among them."""
        return int(self.next.shape[0])
