"""Labels that a producer sends later than their images: at a time, or so many images later."""

from __future__ import annotations

import heapq
import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from cifarctl.stream.lane import Lane, Message


class LabelsByClock:
    """Labels that are due at a time, in a few bytes each."""

    def __init__(self, message: Callable[[int, int], Message]) -> None:
        """`message` makes the message of a label from the position of its image and the label."""
        self._message = message
        self._groups: deque[tuple[float, array[int], array[int]]] = deque()  # when, positions, labels
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def next_at(self) -> float:
        """The time at which the next labels are due, by the clock of `add`; infinity when there are none."""
        return self._groups[0][0] if self._groups else math.inf

    def add(self, at: float, known: Sequence[tuple[int, int]]) -> None:
        """Add the labels of some images, (position, label), which are due at the time `at`; it must never fall."""
        if known:
            numbers, values = zip(*known, strict=True)
            self._groups.append((at, array("q", numbers), array("i", values)))
            self._count += len(known)

    def send(self, now: float, lane: Lane) -> None:
        """Send the labels that are due at the time `now`, as far as there is room."""
        while self._groups and self.next_at <= now:
            at, numbers, values = self._groups.popleft()
            taken = lane.put([self._message(number, label) for number, label in zip(numbers, values, strict=True)])
            self._count -= taken
            if taken < len(numbers):
                self._groups.appendleft((at, numbers[taken:], values[taken:]))
                return


class LabelsByPosition:
    """Labels that are due once so many more images than their own have been sent."""

    def __init__(self, message: Callable[[int, int], Message]) -> None:
        """`message` makes the message of a label from the position of its image and the label."""
        self._message = message
        self._waiting: list[tuple[int, int, int]] = []  # a heap of (images to send first, position, label)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_at(self) -> float:
        """The number of images that must be sent before the next label; infinity when there is none."""
        return self._waiting[0][0] if self._waiting else math.inf

    def limit(self, position: int, late: Sequence[tuple[int | None, int]]) -> float:
        """The position up to which images may be sent before a label is due.

        `late` holds labels, and by how many images they are late, of the images from `position` on.
        """
        numbered = ((number, delay) for number, (label, delay) in enumerate(late, position) if label is not None)
        return min(self.next_at, min((number + delay + 1 for number, delay in numbered if delay), default=math.inf))

    def add(self, known: Iterable[tuple[int, int, int]]) -> None:
        """Add labels: (position, label, by how many images it is late); those that are not late are ignored."""
        for number, label, delay in known:
            if delay:
                heapq.heappush(self._waiting, (number + delay + 1, number, label))

    def send(self, position: float, lane: Lane) -> None:
        """Send the labels that are due once `position` images are sent, as far as there is room."""
        ready = []
        while self._waiting and self._waiting[0][0] <= position:
            ready.append(heapq.heappop(self._waiting))
        taken = lane.put([self._message(number, label) for _, number, label in ready]) if ready else 0
        for item in ready[taken:]:
            heapq.heappush(self._waiting, item)
