"""Looking at the dead letters, and sending them back once the cause is mended."""

from __future__ import annotations

import difflib
import heapq
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from cifarctl import times
from cifarctl.errors import BrokerError, SettingsError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients, letters, rights
from cifarctl.stream.fields import shown_key
from cifarctl.stream.letters import Letter, Source
from cifarctl.stream.records import Headers
from cifarctl.stream.replay import Replay, ReplayMessage, ReplayOutcome

BATCH_BYTES = 8 * 1024 * 1024  # of a batch that is sent back, so that it is there well before a transaction times out


@dataclass(frozen=True)
class Choice:
    """Selects dead letters; a None field selects all. `since_ms`: epoch milliseconds."""

    error: str | None = None
    since_ms: int | None = None
    places: frozenset[tuple[int, int]] | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether `letter` is among them; one without a timestamp is younger than any `since_ms`."""
        record = letter.record
        return (
            (self.error is None or letter.error == self.error)
            and (self.places is None or (record.partition, record.offset) in self.places)
            and (self.since_ms is None or not 0 <= record.timestamp_ms < self.since_ms)
        )

    def check(self, found: set[str]) -> None:
        """See that the class wanted is one of ours, or one of those that were `found` in the topic.

        Raises:
            SettingsError: it is neither.
        """
        known = letters.CLASSES | found
        if self.error is None or self.error in known:
            return
        names = {name.lower(): name for name in sorted(known)}
        close = difflib.get_close_matches(self.error.lower(), names, n=1)
        hint = f"did you mean {names[close[0]]}?" if close else f"the classes are {', '.join(sorted(known))}"
        raise SettingsError(f"--class {self.error}: there is no such error class; {hint}")


@dataclass(frozen=True)
class Row:
    """A letter in a list; `size` is that of its value in bytes, of the digest where it is `digested`."""

    partition: int
    offset: int
    time: str | None
    id: str
    error: str
    message: str
    stage: str
    source: Source | None
    size: int
    digested: bool
    replayed: bool


@dataclass
class Replayed:
    """The outcome of a replay; `problems` says why the failed letters were not sent."""

    replayed: int = 0
    skipped: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def fail(self, place: tuple[int, int], why: str) -> None:
        """Count a letter that cannot be sent."""
        self.failed += 1
        self.problems.append(f"{place[0]}:{place[1]}: {why}")


def examine(kafka: KafkaSettings, choice: Choice, limit: int) -> tuple[list[Row], int]:
    """The newest `limit` of the chosen letters, oldest first, and the number of all chosen ones.

    Raises:
        BrokerError: no broker, or it has no such topic.
        SettingsError: there is no such class of error.
    """
    rights.require(kafka, {clients.Topics.of(kafka.topic_prefix).dead_letters: ["Read"]})
    sent: set[tuple[int, int]] = set()
    classes: set[str] = set()
    chosen = 0

    def rows() -> Iterator[tuple[tuple[int, int, int], Row]]:
        nonlocal chosen
        for letter in _letters(kafka, sent):
            classes.add(letter.error)
            if choice.takes(letter):
                chosen += 1
                row = _row(letter)
                yield (letter.record.timestamp_ms, row.partition, row.offset), row

    youngest = [row for _, row in heapq.nlargest(limit, rows(), key=lambda item: item[0])]
    choice.check(classes)
    listed = [replace(row, replayed=(row.partition, row.offset) in sent) for row in reversed(youngest)]
    return listed, chosen


def replay(
    kafka: KafkaSettings,
    choice: Choice,
    *,
    again: bool = False,
    dry_run: bool = False,
    stop: threading.Event | None = None,
) -> Replayed:
    """Send the chosen letters back to the topics that they came from, in the order of each partition.

    Key, value and headers are the original ones, and a header names the letter. A letter that was sent back before is
    skipped, unless `again`. With `dry_run` nothing is sent, and `replayed` counts the letters that would be. Ends early
    between two batches when `stop` is set.

    Raises:
        BrokerError: no broker, no such topic, or a letter was not delivered; says how many were.
        SettingsError: there is no such class of error.
    """
    topic = clients.Topics.of(kafka.topic_prefix).dead_letters
    rights.require(kafka, {topic: ["Read"] if dry_run else ["Read", "Write"]})
    if dry_run:
        return _Replay(kafka, topic, None, again, stop).run(choice)
    with Replay(kafka, topic) as returns:  # opened before the receipts are read: no other replay adds any from now on
        return _Replay(kafka, topic, returns, again, stop).run(choice)


class _Replay:
    """Two passes over the topic: the first finds the letters to send, the second sends them in batches."""

    def __init__(
        self, kafka: KafkaSettings, topic: str, returns: Replay | None, again: bool, stop: threading.Event | None
    ) -> None:
        self._kafka, self._topic, self._returns = kafka, topic, returns
        self._again, self._stop = again, stop or threading.Event()
        self._topics = clients.partition_counts(kafka)
        self._result = Replayed()

    def run(self, choice: Choice) -> Replayed:
        due = self._due(choice)
        try:
            for batch in self._batches(due):
                self._deliver(batch)
                if self._stop.is_set():
                    break
        except BrokerError as error:
            raise BrokerError(
                f"{self._result.replayed} of {len(due)} letters were sent back, then: {error}; "
                "run the same command again to continue with the others"
            ) from None
        return self._result

    def _due(self, choice: Choice) -> set[tuple[int, int]]:
        """The places of the letters to send; counts the skipped ones."""
        sent: set[tuple[int, int]] = set()
        found = set()
        classes = set()
        for letter in _letters(self._kafka, sent):
            classes.add(letter.error)
            if choice.takes(letter):
                found.add((letter.record.partition, letter.record.offset))
        choice.check(classes)
        for place in sorted((choice.places or frozenset()) - found):
            self._result.fail(place, "there is no such letter")
        skipped = set() if self._again else found & sent
        self._result.skipped = len(skipped)
        return found - skipped

    def _batches(self, due: set[tuple[int, int]]) -> Iterator[list[ReplayMessage]]:
        """The messages to send back, in batches; a letter that cannot be sent is counted as failed."""
        first: dict[int, int] = {}
        for partition, offset in due:
            first[partition] = min(offset, first.get(partition, offset))
        batch: list[ReplayMessage] = []
        size = 0
        missing = set(due)
        for record in browse.read(self._kafka, self._topic, partitions=first, start=first) if first else ():
            place = (record.partition, record.offset)
            letter = letters.read_letter(record) if place in missing else None
            if letter is None:
                continue
            missing.discard(place)
            if (item := self._return(letter)) is None:
                continue
            batch.append(item)
            size += len(item.value or b"")
            if len(batch) >= (1 if self._returns is None else self._returns.batch) or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
            if not missing:
                break
        if batch:
            yield batch
        if not self._stop.is_set():
            for place in sorted(missing):
                self._result.fail(place, "the letter has aged out since")

    def _return(self, letter: Letter) -> ReplayMessage | None:
        """The original message of `letter`; None, and counted as failed, where it is gone."""
        record, source = letter.record, letter.source
        place = (record.partition, record.offset)
        if source is None:
            self._result.fail(place, "its headers do not say where it came from")
            return None
        if source.topic not in self._topics:
            self._result.fail(place, f"there is no topic {source.topic} any more")
            return None
        origin = f"{source.topic}, partition {source.partition}, offset {source.offset}"
        if letter.error == "HeadersUnread":  # without its headers it would be another message
            self._result.fail(
                place, f"its headers could not be read: let its sender send the message at {origin} again"
            )
            return None
        key, value, headers = letter.original_key, record.value, letter.original_headers
        if letter.digested:
            original = None
            if source.partition < self._topics[source.topic]:
                original = browse.at(self._kafka, source.topic, source.partition, source.offset)
            if original is None or original.unread or not letters.is_digest_of(record.value, original.value):
                self._result.fail(place, f"it is a digest, and the message is no longer at {origin}")
                return None
            key, value = original.key, original.value
            headers = [(name, text) for name, text in original.headers if not name.startswith(letters.OWN)]
        mark: Headers = [(letters.REPLAYED_FROM, letters.place(*place))]
        return ReplayMessage(source.topic, key, value, headers + mark, *place)

    def _deliver(self, batch: list[ReplayMessage]) -> None:
        """Send a batch back; where it is too large or too slow as a whole, each half of it."""
        sent = ReplayOutcome.DONE if self._returns is None else self._returns.send(batch)
        if sent is ReplayOutcome.DONE:
            self._result.replayed += len(batch)
        elif len(batch) > 1:
            self._deliver(batch[: len(batch) // 2])
            self._deliver(batch[len(batch) // 2 :])
        elif sent is ReplayOutcome.TOO_LARGE:
            self._result.fail((batch[0].partition, batch[0].offset), f"{batch[0].topic} takes no message of its size")
        else:
            raise BrokerError(
                f"{self._kafka.bootstrap_servers} is too slow for a single letter: raise "
                "kafka.options.transaction.timeout.ms"
            )


def _letters(kafka: KafkaSettings, sent: set[tuple[int, int]]) -> Iterator[Letter]:
    """All letters; the places of those that have been sent back are added to `sent`, some after their letter."""
    for record in browse.read(kafka, clients.Topics.of(kafka.topic_prefix).dead_letters):
        letter = letters.read_letter(record)
        if letter is not None:
            yield letter
        elif (place := letters.receipt_for(record)) is not None:
            sent.add(place)


def _row(letter: Letter) -> Row:
    record = letter.record
    when = None
    if 0 <= record.timestamp_ms < times.END_S * 1000:
        when = datetime.fromtimestamp(record.timestamp_ms / 1000, timezone.utc).isoformat(timespec="milliseconds")
    name = dict(letter.original_headers).get("id")
    return Row(
        partition=record.partition,
        offset=record.offset,
        time=when,
        id=name.decode("utf-8", "replace") if name else shown_key(letter.original_key or b""),
        error=letter.error,
        message=letter.message,
        stage=letter.stage,
        source=letter.source,
        size=len(record.value or b""),
        digested=letter.digested,
        replayed=False,
    )
