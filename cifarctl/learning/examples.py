"""The learner's side of the stream: joins images with their labels, and commits offsets after each checkpoint.

A labelled image's way to the learner; `learning.learner` has the rest:

1. A record is read and decoded: `Examples.read`, `stream.codecs`.
2. An image without a label is shown to the learner and waits in the `LabelJoin`: `_take_unlabelled`.
3. Its label arrives and meets the image: `_take_labels`. A label in the image's own header takes the short way:
   `_take_images`.
4. The joined pair is learned from at once, or held: `learning.teaching`.
5. A checkpoint is written and the offsets are committed, but not beyond what still waits: `save`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count, groupby, repeat

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.learning.learner import Learner
from cifarctl.learning.load_shedding import LoadShedding
from cifarctl.learning.pacing import PartitionPacing
from cifarctl.learning.read_progress import MAX_NUMBERS, ReadProgress
from cifarctl.learning.served_accuracy import ServedAccuracy
from cifarctl.learning.teaching import HeldExamples, teach
from cifarctl.settings import Settings
from cifarctl.stream import clients, codecs, label_records
from cifarctl.stream.join import Place
from cifarctl.stream.label_join import LabelJoin, Matched
from cifarctl.stream.limits import of_topics
from cifarctl.stream.predictions import Prediction
from cifarctl.stream.records import Partition, Record
from cifarctl.stream.sender import Sender
from cifarctl.stream.source import Source
from cifarctl.stream.tail import Tail
from cifarctl.stream.unmatched_labels import UnmatchedLabels

READ = 256  # maximum number of records per read
WAIT = 0.2  # seconds that a read waits for them
NOTICE_INTERVAL = 60.0  # seconds between two notices of the same kind


class Examples:
    """Reads the images and labels topics for a learner.

    Invalid labels go to the dead-letter topic from here, as only the learner reads all labels and commits. Invalid
    images go there from `serve`.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        join: LabelJoin,
        answers: Tail[Prediction],
        gaps: list[str],
        topics: clients.Topics,
        settings: Settings,
        *,
        since_ms: int = 0,
        dry: bool = False,
        held: HeldExamples | None = None,
    ) -> None:
        """Skip messages produced before `since_ms`. With `dry`, save, commit and send nothing.

        With `held`, examples go there instead of to the learner, and no update is made.
        """
        self._since_ms, self._dry = since_ms, dry
        self.learner, self.source, self._answers = learner, source, answers
        self.held = held
        self._teach = partial(teach, learner) if held is None else held.take
        self._updates = held is None  # otherwise updates wait until everything available has been read
        self._gaps = gaps
        self._topics, self._settings = topics, settings
        self._join = join
        # Images learned from before a restart are read again if their neighbours were still waiting then.
        known = learner.buffer.ids
        self._join.settle(known, repeat(None, len(known)))
        #: Labels that match no image.
        self.unmatched = UnmatchedLabels(join, topics.labels, settings.online.label_wait)
        self._served = ServedAccuracy(settings.online.label_wait)
        self._overload = LoadShedding(settings.online.update_every)
        self._overload.behind = learner.progress.behind
        self._pace = PartitionPacing()
        self._positions: dict[Partition, int] = {}  # next offset to read
        #: Offsets committed with the last checkpoint.
        self.saved: dict[Partition, int] = {}
        self._read_progress = ReadProgress.load(learner.progress.reading)
        self._letters: Sender | None = None
        self._bad_labels = 0
        self._told: dict[str, tuple[int, float]] = {}  # by kind of notice: the count reported last, and when
        self._disk_failure: str | None = None  # as reported last
        self.unsaved = False
        source.listen(self._forget, self._forget)

    def status(self) -> events.LearnerStatus:
        """The learner's status, with the images that wait for labels and the served accuracy."""
        return replace(
            self.learner.status(),
            waiting=len(self._join),
            served=self._served.record(),
            labels_unmatched=self.unmatched.count,
            lag=self.source.lag(),
        )

    def read(self) -> Iterator[events.LearnEvent]:
        """Show the learner the next images, and let it learn from those whose labels are known now."""
        records = self.source.read(READ, WAIT)
        yield from self._look_at_the_lag(len(records))
        for record in records:
            self._positions[record.topic, record.partition] = record.offset + 1
        self.unsaved = self.unsaved or bool(records) or bool(self.source.settled({}))
        if self._since_ms:
            records = [record for record in records if record.timestamp_ms >= self._since_ms]
        images = [record for record in records if record.topic == self._topics.images]
        others = [record for record in records if record.topic == self._topics.labels]
        for event in chain(self._take_images(images), self._take_labels(others)):
            yield event
            if isinstance(event, events.RetrainResult):  # more has arrived during the update
                yield from self._look_at_the_lag()
        if behind := self.learner.progress.behind:
            yield from self._look_at_the_lag()
        if behind and not self.learner.progress.behind:  # the backlog has been taken in
            yield from self.learner.catch_up()
        self.source.hold(self._pace.after(records, self.source.assigned, self._join.fill))
        self._served.answers(self._answers.read())
        yield from self._losses()
        if (notice := self.unmatched.look(drained=self.source.drained)) is not None:
            yield notice
        while self._gaps:
            yield events.Notice(f"{self._gaps.pop()}; the learner continues with the oldest message available")

    def _look_at_the_lag(self, read: int = 0) -> Iterator[events.LearnEvent]:
        if self._updates:
            yield from self._overload.update(self.source.lag(), time.monotonic(), read)
        self.learner.progress.behind = self._overload.behind

    def save(self) -> None:
        """Write a checkpoint, then commit, but not beyond records that still wait for their other half.

        After a crash between the two, records are read twice and recognised by their ids. If the broker does not
        answer, `unsaved` stays set.
        """
        if self._dry:
            return
        self.learner.save(self._read_progress.dump(self._join.numbers(MAX_NUMBERS)))
        if self._letters is not None:
            delivered = self._letters.flush(self._settings.kafka.timeout_s)
            self._letters.raise_failed()
            if not delivered:
                return
        low = self._join.low_water(self._too_late_ms())
        done = self.source.settled(self._positions)
        offsets = {partition: min(offset, low.get(partition, offset)) for partition, offset in done.items()}
        self.unsaved = not self.source.commit(offsets)
        if not self.unsaved:
            self._read_progress.committed(offsets)
            self.saved = offsets

    def _take_images(self, records: Sequence[Record]) -> Iterator[events.LearnEvent]:
        batch, _ = codecs.decode(
            records,
            classes=len(self.learner.classes),
            json_mean=self._settings.serve.json_mean,
            json_std=self._settings.serve.json_std,
        )
        skipped: list[Record] = []
        if self._overload.every > 1:
            taken = np.array([self._overload.takes(image_id) for image_id in batch.ids], dtype=np.bool_)
            skipped = [batch.records[place] for place in np.flatnonzero(~taken)]
            batch = batch.take(np.flatnonzero(taken))
        # In the order of their arrival, however they were cut into batches: decisions depend on it.
        for known, places in groupby(range(len(batch.ids)), lambda place: batch.labels[place] >= 0):
            now = list(places)
            run = slice(now[0], now[-1] + 1)
            ids, pixels = batch.ids[run], batch.pixels[run]
            if known:
                self._join.settle(ids, batch.labels[run].tolist())
                for record in batch.records[run]:
                    self._read_progress.add(record)
                yield from self._teach(Matched(ids, pixels, batch.labels[run], None))
            else:
                yield from self._take_unlabelled(ids, pixels, batch.records[run])

        for record in skipped:
            self._read_progress.add(record)

    def _take_unlabelled(
        self, ids: Sequence[str], pixels: NDArray[np.uint8], records: Sequence[Record]
    ) -> Iterator[events.LearnEvent]:
        new = [self._read_progress.add(record) for record in records]
        number = count(self.learner.seen)
        numbers = [
            next(number) if is_new else self._read_progress.number(image_id, self.learner.seen)
            for image_id, is_new in zip(ids, new, strict=True)
        ]
        yield from self.learner.see(torch.from_numpy(pixels[new]), updates=self._updates)
        yield from self._teach(self._join.add_images(ids, pixels, numbers, map(_place, records)))

    def _take_labels(self, records: Sequence[Record]) -> Iterator[events.LearnEvent]:
        batch, letters = label_records.decode(records, classes=len(self.learner.classes))
        for letter in () if self._dry else letters:
            if self._letters is None:
                kafka, topic = self._settings.kafka, self._topics.dead_letters
                self._letters = Sender(kafka, limits=of_topics(kafka, [topic]))
            self._letters.send_letter(self._topics.dead_letters, letter)
        self._bad_labels += len(letters)
        self._served.labels(zip(batch.ids, batch.labels.tolist(), strict=True))
        if self._overload.every > 1:
            batch = batch.only(lambda image_id: self._overload.takes(image_id) or self._join.waits(image_id))
        yield from self._teach(self._join.add_labels(batch.ids, batch.labels, map(_place, batch.records)))

    def _too_late_ms(self) -> int | None:
        """Messages produced before this time have waited long enough; None while their labels may be unread."""
        lag = self.source.lag()
        if lag is None or lag > READ:
            return None
        return int((time.time() - self._settings.online.label_wait) * 1000)

    def _losses(self) -> Iterator[events.Notice]:
        """Report, now and then, messages that do not become examples."""
        topic, failure = self._topics.labels, self._join.disk_failure
        if failure != self._disk_failure:
            self._disk_failure = failure
            yield events.Notice(
                f"images that wait for labels are no longer written to disk ({failure}): those on disk are lost, "
                "and only online.label_wait_mb is left until the learner restarts"
            )
        room = "online.label_wait_disk_mb" if failure is None else "without the disk, online.label_wait_mb"
        for number, story in (
            (self._bad_labels, f"messages on {topic} are not labels; they go to {self._topics.dead_letters}"),
            (
                self._join.conflicting_labels,
                "labels contradict an earlier label of the same image; the first one counts",
            ),
            (
                self._join.displaced_images,
                f"images were dropped before their labels came: {room} is too small for online.label_wait",
            ),
        ):
            told, at = self._told.get(story, (0, -NOTICE_INTERVAL))
            if number > told and time.monotonic() - at >= NOTICE_INTERVAL:
                self._told[story] = number, time.monotonic()
                yield events.Notice(f"{number:,} {story}")

    def _forget(self, partitions: frozenset[Partition]) -> None:
        """Drop revoked partitions: their new owner reads on from the committed offsets."""
        self._read_progress.keep(self._join.numbers(MAX_NUMBERS))
        self._join.forget(partitions)
        for partition in partitions:
            self._positions.pop(partition, None)
            self.saved.pop(partition, None)


def _place(record: Record) -> Place:
    return Place(record.topic, record.partition, record.offset, record.timestamp_ms)
