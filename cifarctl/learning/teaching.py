"""Brings labelled images to the learner: at once, or held until their number is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from cifarctl import events
from cifarctl.data import Images
from cifarctl.learning.learner import Learner
from cifarctl.stream.label_join import Matched


def teach(learner: Learner, found: Matched, *, updates: bool = True) -> Iterator[events.LearnEvent]:
    """Let the learner learn from images that have been joined with their labels."""
    images = Images(torch.from_numpy(found.pixels), torch.from_numpy(found.labels))
    return learner.learn(found.ids, images, numbers=found.numbers, updates=updates)


class HeldExamples:
    """Examples held back until their number is known; beyond `most` the oldest are taken in at once."""

    def __init__(self, learner: Learner, most: int) -> None:
        """Hold at most `most` examples."""
        self._learner, self._most = learner, most
        self._waiting: deque[Matched] = deque()
        self._ids: set[str] = set(learner.buffer.ids)
        self._before = learner.fresh
        self._new = self._size = 0

    @property
    def count(self) -> int:
        """Examples since the last update, each id once."""
        return self._before + self._new

    def take(self, found: Matched) -> Iterator[events.LearnEvent]:
        """Hold examples back."""
        self._new += len(set(found.ids) - self._ids)
        self._ids.update(found.ids)
        self._waiting.append(found)
        self._size += len(found.ids)
        while self._size > self._most:
            oldest = self._waiting.popleft()
            self._size -= len(oldest.ids)
            yield from teach(self._learner, oldest, updates=False)

    def learn(self, parts: int) -> Iterator[events.LearnEvent]:
        """Take in all held examples, in `parts` with an update after each; 0 parts: without an update."""
        part = -(-self._size // parts) if parts and self._size else self._size + 1
        left = part
        for found in self._waiting:
            start = 0
            while start < len(found.ids):
                now = slice(start, start + left)
                numbers = None if found.numbers is None else found.numbers[now]
                some = Matched(found.ids[now], found.pixels[now], found.labels[now], numbers)
                yield from teach(self._learner, some, updates=False)
                start, left = start + len(some.ids), left - len(some.ids)
                if not left:
                    left = part
                    yield from self._learner.update("by hand")
        if parts and (left < part or not self._size):
            yield from self._learner.update("by hand")
