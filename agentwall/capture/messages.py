# SPDX-License-Identifier: Apache-2.0
"""A flow's messages in 16 bytes each, as the sequence that a conversation has."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import overload

from agentwall.detect.conversation import Message


class Messages(Sequence[Message]):
    """Made into :class:`Message` one by one, as they are looked at; in order of time."""

    __slots__ = ("_client", "_sorted", "_unsorted")

    def __init__(self, numbers: array[int], client: int) -> None:
        """Take over *numbers*.

        Args:
            numbers: Two for each message: its time, and twice its size plus the side.
            client: Which side is the client, 0 or 1.
        """
        self._unsorted: array[int] | None = numbers
        self._sorted = numbers
        self._client = client

    # Sorted when first looked at: of most flows nobody does.
    @property
    def _numbers(self) -> array[int]:
        if self._unsorted is not None:
            times = self._unsorted[::2]
            if any(times[at] > times[at + 1] for at in range(len(times) - 1)):
                pairs = zip(times, self._unsorted[1::2], strict=True)
                in_time = sorted(pairs, key=lambda pair: pair[0])
                self._sorted = array("q", [number for pair in in_time for number in pair])
            self._unsorted = None
        return self._sorted

    def __len__(self) -> int:
        return len(self._sorted) // 2

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Message, ...]: ...

    def __getitem__(self, index: int | slice) -> Message | tuple[Message, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = 2 * range(len(self))[index]
        numbers = self._numbers
        return self._message(numbers[place], numbers[place + 1])

    def __iter__(self) -> Iterator[Message]:
        numbers = iter(self._numbers)
        return (self._message(time, size) for time, size in zip(numbers, numbers, strict=True))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, str | bytes):
            return len(self) == len(other) and all(
                mine == theirs for mine, theirs in zip(self, other, strict=True)
            )
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def _message(self, time: int, size: int) -> Message:
        return Message(time, size >> 1, size & 1 == self._client)
