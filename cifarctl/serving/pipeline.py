"""A message's way through `serve`, in the order in which `InferencePipeline` defines the steps:

1. read     the source hands over a batch of records, unless backpressure is engaged or the model has enough to do
2. decode   records become images, or dead letters
3. predict  a thread runs the model on the images; a canary, while there is one, on its share of them
4. send     predictions and dead letters are queued for their topics, in the order of the records
5. commit   the sink commits the sent messages together with the offsets of their records
6. report   the events of the batch are yielded: only now, so that a repeated batch does not count twice

If a commit fails, or a partition is lost to another process, everything after the last commit is
forgotten and read again: a message goes back to step 1.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from cifarctl import events
from cifarctl.errors import BrokerError
from cifarctl.registry.manifest import Manifest
from cifarctl.serving.backpressure import Backpressure
from cifarctl.serving.canary_routing import canary_side
from cifarctl.settings import KafkaSettings, ServeSettings
from cifarctl.stream.clients import Topics
from cifarctl.stream.codecs import decode
from cifarctl.stream.fields import MAX_ID_BYTES
from cifarctl.stream.layout_check import LayoutCheck
from cifarctl.stream.patience import Patience
from cifarctl.stream.predictions import PredictionEncoder
from cifarctl.stream.records import DeadLetter, Decoded, Partition, Pixels, Record
from cifarctl.stream.sink import Commit, Sink
from cifarctl.stream.sizes import wire_size
from cifarctl.stream.source import Source

#: Batches with the model at once: enough to keep it busy while this side commits.
DEPTH = 4
LONGEST_WAIT_S = 0.1  # for a next message: signals, swaps and the learner's events are looked at in between
BLOCKED_WAIT_S = 0.02  # while backpressure is engaged
COMMIT_WAIT_S = 1.0  # a commit that takes longer continues in the next turn


class Model:
    """A version ready to predict: (N, 3, 32, 32) uint8 pixels to (N, classes) probabilities."""

    def __init__(self, manifest: Manifest, predict: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.manifest, self.predict = manifest, predict
        self.encode = PredictionEncoder(manifest.classes, manifest.version, manifest.sha256)


@dataclass(frozen=True)
class OnTrial:
    """A canary, which answers that share of the ids; trials are numbered from 1."""

    model: Model
    share: float
    trial: int


@dataclass(frozen=True)
class _Part:
    """The images of a batch that one model answers, their places in the batch (P,), and its answers (P,)."""

    model: Model
    places: NDArray[np.intp]
    batch: Decoded
    outcome: Future[tuple[NDArray[np.float32], NDArray[np.int64]]]  # confidences, classes


@dataclass(frozen=True)
class _InFlight:
    """A batch with the model; it has a part even where no record is an image."""

    records: Sequence[Record]
    parts: Sequence[_Part]
    letters: Sequence[DeadLetter]
    trial: int
    began: float

    @property
    def done(self) -> bool:
        return all(part.outcome.done() for part in self.parts)


class InferencePipeline:
    """Answers every record that is read, in order, with a prediction or a dead letter.

    One thread runs the model; everything else happens in the caller's thread meanwhile. `model` and `canary` may be
    replaced between two calls. The answers of both to one batch go out together.
    """

    def __init__(
        self, source: Source, sink: Sink, topics: Topics, kafka: KafkaSettings, options: ServeSettings, model: Model
    ) -> None:
        self.model = model
        self.canary: OnTrial | None = None
        self.backpressure = Backpressure(sink)
        self._source, self._sink, self._topics, self._kafka, self._options = source, sink, topics, kafka, options
        self._worker = ThreadPoolExecutor(1, "model")
        self._in_flight: deque[_InFlight] = deque()
        self._sent: list[events.BatchServed] = []
        self._given_up = False
        self._committed: list[events.BatchServed] = []
        self._layout_check, self._layout_notices = LayoutCheck(options.json_mean), list[str]()
        source.listen(self._revoked, self._lost)

    def __enter__(self) -> InferencePipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(cancel_futures=True)

    @property
    def open(self) -> int:
        """Records read whose answers are not committed yet."""
        return sum(len(item.records) for item in self._in_flight) + sum(
            len(event.ids) + len(event.dead_letters) for event in self._sent
        )

    @property
    def full(self) -> bool:
        """Whether the model has enough to do."""
        return len(self._in_flight) >= DEPTH

    @property
    def idle(self) -> bool:
        """Whether the model has nothing to do."""
        return not self._in_flight

    def advance(self, left: int | None) -> Iterator[events.Notice | events.BatchServed]:
        """One turn: every step once, for the batches that are ready for it.

        `left` is the number of records that may still be answered, those not yet committed included; None = any number.

        Raises:
            BrokerError: the broker refuses for good.
        """
        room = self._options.batch_size if left is None else left - self.open
        if records := self.read(room):
            self.submit(records)
            yield from self._notices()
        self.send(wait=not records)
        if self._sink.due() or self._sink.busy or (room <= 0 and self.idle):
            self.commit(COMMIT_WAIT_S)
        yield from self.committed()

    # --- step 1: read

    def read(self, room: int) -> list[Record]:
        """The next batch, of at most `room` records; rebalances happen inside this call."""
        blocked = self.backpressure.update()
        self._source.hold(self._source.assigned if blocked else frozenset())
        wait_s = BLOCKED_WAIT_S if blocked else LONGEST_WAIT_S if self.idle else 0.0
        wanted = 0 if self.full and not blocked else min(self._options.batch_size, room, self._sink.commit_size)
        return self._source.read(wanted, wait_s, self._options.max_wait_ms / 1000) if wanted > 0 else []

    def submit(self, records: Sequence[Record]) -> None:
        """Steps 2 and 3 of a batch."""
        began = time.perf_counter()
        batch, letters = self._decode(records)
        trial = 0 if self.canary is None else self.canary.trial
        self._in_flight.append(_InFlight(records, self._predict(batch), letters, trial, began))

    # --- step 2: decode

    def _decode(self, records: Sequence[Record]) -> tuple[Decoded, list[DeadLetter]]:
        batch, letters = decode(
            records,
            classes=len(self.model.manifest.classes),
            json_mean=self._options.json_mean,
            json_std=self._options.json_std,
        )
        self._layout_notices += self._layout_check.look(batch)
        return batch, letters

    def _notices(self) -> Iterator[events.Notice]:
        """Notices about the images since the last call: see LayoutCheck."""
        told, self._layout_notices = self._layout_notices, []
        yield from map(events.Notice, told)

    # --- step 3: predict

    def _predict(self, batch: Decoded) -> list[_Part]:
        return [
            _Part(model, places, own, self._worker.submit(_answers, model.predict, own.pixels))
            for model, places, own in self._divide(batch)
        ]

    def _divide(self, batch: Decoded) -> Sequence[tuple[Model, NDArray[np.intp], Decoded]]:
        """The images of a batch by the model that answers them."""
        whole = self.model, np.arange(len(batch.ids)), batch
        if self.canary is None:
            return [whole]
        aside = canary_side(batch.ids, self.canary.share)
        sides = (self.model, np.flatnonzero(~aside)), (self.canary.model, np.flatnonzero(aside))
        return [(model, places, batch.take(places)) for model, places in sides if len(places)] or [whole]

    # --- step 4: send

    def send(self, *, wait: bool) -> None:
        """Send the answers of all batches that the model has finished; with `wait` at least of the oldest batch."""
        while self._in_flight and not (self._sink.busy or self._sink.full) and (wait or self._in_flight[0].done):
            self._send(self._in_flight.popleft())
            wait = False

    def _send(self, item: _InFlight) -> None:
        """Send the answers to a batch in the order of its images, and prepare its events."""
        now = round(time.time() * 1000)
        answers: list[tuple[int, str, bytes]] = []
        letters = list(item.letters)
        answered = []
        for part in item.parts:
            confidence, predicted = part.outcome.result()
            values = part.model.encode(part.batch, predicted, confidence, now)
            small, large = self._sizes(part.batch.ids, values)
            if large:
                letters += [_too_large(part.batch.records[place], len(values[place])) for place in large]
                part = replace(part, places=part.places[small], batch=part.batch.take(np.array(small, np.intp)))
                confidence, predicted, values = confidence[small], predicted[small], [values[place] for place in small]
            answered.append((part, confidence, predicted))
            answers += zip(part.places.tolist(), part.batch.ids, values, strict=True)
        for _, image_id, value in sorted(answers):
            self._sink.send(self._topics.predictions, image_id.encode(), value)
        letters.sort(key=lambda letter: (letter.record.partition, letter.record.offset))
        for letter in letters:
            self._sink.send_letter(self._topics.dead_letters, letter)
        self._sink.track(item.records)
        told = [(letter.error, letter.message) for letter in letters]
        for part, confidence, predicted in answered:
            produced = np.array([record.timestamp_ms for record in part.batch.records], dtype=np.float64)
            produced[produced < 0] = np.nan  # no timestamp
            self._sent.append(
                events.BatchServed(
                    version=part.model.manifest.version,
                    ids=part.batch.ids,
                    labels=part.batch.labels,
                    predicted=predicted,
                    confidence=confidence,
                    latency_ms=now - produced,
                    dead_letters=told,
                    seconds=time.perf_counter() - item.began,
                    trial=item.trial,
                )
            )
            told = []  # the dead letters of a batch are in its first event only

    def _sizes(self, ids: Sequence[str], values: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Places of the answers that the predictions topic takes, and of those that are too large for it."""
        limit = self._sink.limit(self._topics.predictions)
        if max(map(len, values), default=0) + MAX_ID_BYTES + wire_size(None, None, ()) <= limit:
            return list(range(len(values))), []
        places: tuple[list[int], list[int]] = ([], [])
        for place, (image_id, value) in enumerate(zip(ids, values, strict=True)):
            places[wire_size(image_id.encode(), value, ()) > limit].append(place)
        return places

    # --- step 5: commit

    def commit(self, timeout_s: float | None = None) -> Commit:
        """Commit everything sent; if the commit fails, all of it is read again."""
        outcome = self._sink.commit(timeout_s)
        if outcome is Commit.DONE:
            self._committed += self._sent
            self._sent.clear()
            if self._given_up:
                self._forget()
        elif outcome is Commit.UNDONE:
            self._forget()
        return outcome

    # --- step 6: report

    def committed(self) -> Iterator[events.BatchServed]:
        """The events of the batches that were committed since the last call."""
        told, self._committed = self._committed, []
        yield from told

    # --- the end, and rebalances

    def settle(self, timeout_s: float) -> None:
        """Send and commit everything; uncommitted records are left to the next member of the group.

        Raises:
            BrokerError: the broker did not answer within `timeout_s` seconds; the records will be read again.
        """
        if self._settle(timeout_s) is Commit.PENDING:
            raise BrokerError(
                f"the last predictions are not committed: no answer from {self._kafka.bootstrap_servers}; "
                "their images will be read again; check kafka.bootstrap_servers"
            )

    def _settle(self, timeout_s: float) -> Commit:
        patience = Patience(timeout_s)
        while True:
            while self._in_flight and not (self._sink.busy or self._sink.full):
                self.send(wait=True)
            outcome = self.commit(patience.left_s)
            if outcome is Commit.DONE and self.open:  # the sink took a part of it
                continue
            if outcome is not Commit.PENDING or not patience.again():  # pending: the group's coordinator is moving
                return outcome

    def _revoked(self, _: frozenset[Partition]) -> None:
        """Finish while the partitions are still ours; the rest is left to their next owner."""
        if self._settle(self._kafka.timeout_s) is not Commit.DONE:
            self._give_up()

    def _lost(self, _: frozenset[Partition]) -> None:
        """Another process answers those records already."""
        self._give_up()

    def _give_up(self) -> None:
        self._sink.undo()
        if self._sink.busy:  # where to read on is known only once the pending commit is decided
            self._given_up = True
        else:
            self._forget()

    def _forget(self) -> None:
        """Read everything uncommitted again."""
        self._given_up = False
        for item in self._in_flight:
            for part in item.parts:
                part.outcome.cancel()
        self._in_flight.clear()
        self._sent.clear()
        self._source.rewind()


def _too_large(record: Record, size: int) -> DeadLetter:
    """The dead letter of an image whose prediction cannot be sent: only a long id can make it too large."""
    why = f"the prediction has {size} bytes, more than max.message.bytes of the predictions topic leaves room for"
    return DeadLetter(record, "answer", "AnswerTooLarge", why)


def _answers(
    predict: Callable[[torch.Tensor], torch.Tensor], pixels: Pixels
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Confidence (B,) and class (B,) of each image (B, 3, 32, 32) uint8."""
    if not len(pixels):
        return np.empty(0, np.float32), np.empty(0, np.int64)
    confidence, predicted = predict(torch.from_numpy(pixels)).max(dim=1)
    return confidence.numpy(), predicted.numpy()
