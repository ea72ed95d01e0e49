"""What stands between reading and committing: batches in the model, answers sent, answers not yet committed."""

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
from cifarctl.serving.canary_routing import canary_side
from cifarctl.settings import KafkaSettings, ServeSettings
from cifarctl.stream import codecs
from cifarctl.stream.clients import Topics
from cifarctl.stream.connection import RETRY_S
from cifarctl.stream.fields import MAX_ID_BYTES
from cifarctl.stream.layout_check import LayoutCheck
from cifarctl.stream.predictions import PredictionEncoder
from cifarctl.stream.records import DeadLetter, Decoded, Partition, Pixels, Record
from cifarctl.stream.sink import Commit, Sink
from cifarctl.stream.sizes import wire_size
from cifarctl.stream.source import Source

#: Batches in the model at once: enough that it has work while this side commits.
DEPTH = 4


class Model:
    """A version ready to predict: (N, 3, 32, 32) uint8 pixels to (N, classes) probabilities."""

    def __init__(self, manifest: Manifest, predict: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.manifest, self.predict = manifest, predict
        self.encode = PredictionEncoder(manifest.classes, manifest.version, manifest.sha256)


@dataclass(frozen=True)
class OnTrial:
    """A canary, which answers that share of the ids; `trial` numbers the trials, from 1."""

    model: Model
    share: float
    trial: int


@dataclass(frozen=True)
class _Part:
    """The images of a batch that one model answers, their places there (P,), and what it answers (P,)."""

    model: Model
    places: NDArray[np.intp]
    batch: Decoded
    outcome: Future[tuple[NDArray[np.float32], NDArray[np.int64]]]  # confidences, classes


@dataclass(frozen=True)
class _InFlight:
    """A batch in the model; it has a part even where no record is an image."""

    records: Sequence[Record]
    parts: Sequence[_Part]
    letters: Sequence[DeadLetter]
    trial: int
    began: float

    @property
    def done(self) -> bool:
        return all(part.outcome.done() for part in self.parts)


class InferencePipeline:
    """Answers every record that is submitted, in order, by a prediction or a dead letter.

    One thread runs the model; all else, decoding, sending and committing, happens in the caller's thread meanwhile.
    While there is a `canary`, that model predicts its share of a batch after the `model` has predicted the rest; the
    answers of both go out together. Events are told once what they tell of is committed, so that nothing counts twice
    that had to be done again.
    """

    def __init__(
        self, source: Source, sink: Sink, topics: Topics, kafka: KafkaSettings, options: ServeSettings, model: Model
    ) -> None:
        self.model = model
        self.canary: OnTrial | None = None
        self._source, self._sink, self._topics, self._kafka, self._options = source, sink, topics, kafka, options
        self._worker = ThreadPoolExecutor(1, "model")
        self._in_flight: deque[_InFlight] = deque()
        self._sent: list[events.BatchServed] = []
        self._given_up = False
        self._committed: list[events.BatchServed] = []
        self._doubts, self._doubtful = LayoutCheck(options.json_mean), list[str]()
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

    def submit(self, records: Sequence[Record]) -> None:
        """Decode a batch and give it to the model."""
        began = time.perf_counter()
        batch, letters = codecs.decode(
            records,
            classes=len(self.model.manifest.classes),
            json_mean=self._options.json_mean,
            json_std=self._options.json_std,
        )
        self._doubtful += self._doubts.look(batch)
        parts = [
            _Part(model, places, own, self._worker.submit(_predict, model.predict, own.pixels))
            for model, places, own in self._divide(batch)
        ]
        trial = 0 if self.canary is None else self.canary.trial
        self._in_flight.append(_InFlight(records, parts, letters, trial, began))

    def doubts(self) -> Iterator[events.Notice]:
        """What there is to say of the images since the last call: see LayoutCheck."""
        told, self._doubtful = self._doubtful, []
        yield from map(events.Notice, told)

    def _divide(self, batch: Decoded) -> Sequence[tuple[Model, NDArray[np.intp], Decoded]]:
        """Who answers which images of a batch."""
        whole = self.model, np.arange(len(batch.ids)), batch
        if self.canary is None:
            return [whole]
        aside = canary_side(batch.ids, self.canary.share)
        sides = (self.model, np.flatnonzero(~aside)), (self.canary.model, np.flatnonzero(aside))
        return [(model, places, batch.take(places)) for model, places in sides if len(places)] or [whole]

    def finish(self, *, wait: bool) -> None:
        """Send what the model is through with; with `wait` at least the oldest batch."""
        while self._in_flight and not (self._sink.busy or self._sink.full) and (wait or self._in_flight[0].done):
            self._send(self._in_flight.popleft())
            wait = False

    def commit(self, timeout_s: float | None = None) -> Commit:
        """Commit what was sent; where that comes to nothing all of it is read again."""
        outcome = self._sink.commit(timeout_s)
        if outcome is Commit.DONE:
            self._committed += self._sent
            self._sent.clear()
            if self._given_up:
                self._forget()
        elif outcome is Commit.UNDONE:
            self._forget()
        return outcome

    def committed(self) -> Iterator[events.BatchServed]:
        """What has been committed since the last call."""
        told, self._committed = self._committed, []
        yield from told

    def settle(self, timeout_s: float) -> None:
        """Send and commit all there is; what comes to nothing is left to be read again, by whoever comes next.

        Raises:
            BrokerError: the broker did not answer within `timeout_s` seconds; the records will be read again.
        """
        if self._settle(timeout_s) is Commit.PENDING:
            raise BrokerError(
                f"the last predictions are not committed: no answer from {self._kafka.bootstrap_servers}; "
                "their images will be read again; check kafka.bootstrap_servers"
            )

    def _settle(self, timeout_s: float) -> Commit:
        deadline = time.monotonic() + timeout_s
        while True:
            while self._in_flight and not (self._sink.busy or self._sink.full):
                self.finish(wait=True)
            outcome = self.commit(max(0.0, deadline - time.monotonic()))
            if outcome is Commit.PENDING and time.monotonic() < deadline:
                time.sleep(RETRY_S)  # the coordinator of the group is moving
            elif outcome is not Commit.DONE or not self.open:
                return outcome

    def _send(self, item: _InFlight) -> None:
        """The answers to a batch in the order of its images, and what is to be told of them."""
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
            told = []  # told once

    def _sizes(self, ids: Sequence[str], values: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Places of the answers that the predictions topic takes, and of those that are too large for it."""
        limit = self._sink.limit(self._topics.predictions)
        if max(map(len, values), default=0) + MAX_ID_BYTES + wire_size(None, None, ()) <= limit:
            return list(range(len(values))), []
        places: tuple[list[int], list[int]] = ([], [])
        for place, (image_id, value) in enumerate(zip(ids, values, strict=True)):
            places[wire_size(image_id.encode(), value, ()) > limit].append(place)
        return places

    def _revoked(self, _: frozenset[Partition]) -> None:
        """Finish while the partitions are still ours; what cannot be is left to whoever has them next."""
        if self._settle(self._kafka.timeout_s) is not Commit.DONE:
            self._give_up()

    def _lost(self, _: frozenset[Partition]) -> None:
        """Somebody else answers those records already."""
        self._give_up()

    def _give_up(self) -> None:
        self._sink.undo()
        if self._sink.busy:  # where to read on is known once it is known whether what was sent counts
            self._given_up = True
        else:
            self._forget()

    def _forget(self) -> None:
        """Read again what is not committed."""
        self._given_up = False
        for item in self._in_flight:
            for part in item.parts:
                part.outcome.cancel()
        self._in_flight.clear()
        self._sent.clear()
        self._source.rewind()


def _too_large(record: Record, size: int) -> DeadLetter:
    """Why an image has no answer that can be sent: only its id can make it so large."""
    why = f"the prediction has {size} bytes, more than max.message.bytes of the predictions topic leaves room for"
    return DeadLetter(record, "answer", "AnswerTooLarge", why)


def _predict(
    predict: Callable[[torch.Tensor], torch.Tensor], pixels: Pixels
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Confidence (B,) and class (B,) of each image (B, 3, 32, 32) uint8."""
    if not len(pixels):
        return np.empty(0, np.float32), np.empty(0, np.int64)
    confidence, predicted = predict(torch.from_numpy(pixels)).max(dim=1)
    return confidence.numpy(), predicted.numpy()
