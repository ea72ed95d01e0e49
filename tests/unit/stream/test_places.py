"""What a reader knows of its partitions: never is more committed than was handled."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cifarctl.stream.partition_offsets import PartitionOffsets
from cifarctl.stream.records import Partition

HERE: Partition = ("t", 0)


class Reading(RuleBasedStateMachine):
    """One partition: records with holes between them (marks of transactions), read, handled, committed, read again."""

    def __init__(self) -> None:
        super().__init__()
        self.places = PartitionOffsets()
        self.log = [0]  # offsets of the records
        self.end = 1  # behind the last record and whatever marks there are
        self.pending: list[int] = []  # read, not handled
        self.handled = 0  # next offset after what is handled, as a sink counts it
        self.safe = 0  # all records below it were handled
        self.term = 0

    @property
    def read(self) -> bool:
        return HERE in self.places.assigned

    @rule(marks=st.integers(0, 3))
    def produce(self, marks: int) -> None:
        self.log.append(self.end + marks)
        self.end = self.log[-1] + 1

    @rule(marks=st.integers(1, 3))
    def mark(self, marks: int) -> None:
        self.end += marks

    @precondition(lambda self: not self.read)
    @rule()
    def assign(self) -> None:
        self.term += 1
        self.places.assign([HERE], self.term)
        self.handled, self.pending = 0, []
        self.group = self.safe
        self.places.committed[HERE] = self.safe

    @precondition(lambda self: self.read)
    @rule()
    def forget(self) -> None:
        self.places.forget([HERE])
        assert not self.places.settled({})

    @precondition(lambda self: self.read)
    @rule(count=st.integers(1, 3))
    def take(self, count: int) -> None:
        at = self.places.read.get(HERE, self.places.committed[HERE])
        for offset in [each for each in self.log if each >= at][:count]:
            assert self.places.take(HERE, offset)
            self.pending.append(offset)
        if self.places.read.get(HERE, at) > max(self.log) or at > max(self.log):
            self.places.end(HERE, self.end)

    @precondition(lambda self: self.read and self.pending)
    @rule()
    def handle(self) -> None:
        self.handled = self.pending.pop(0) + 1

    @precondition(lambda self: self.read)
    @rule()
    def commit(self) -> None:
        offsets = self.places.settled({HERE: self.handled} if self.handled else {})
        for offset in offsets.values():
            lost = [each for each in self.log if self.safe <= each < offset and each >= max(self.handled, self.safe)]
            assert not lost, f"committed {offset}, though {lost} were not handled"
            assert offset >= self.safe
            self.safe = offset
        self.places.commit(offsets)
        self.handled = 0
        if not self.pending and HERE in self.places.ends:
            assert self.safe == self.places.ends[HERE]

    @precondition(lambda self: self.read)
    @rule()
    def rewind(self) -> None:
        for partition, offset in self.places.uncommitted().items():
            assert offset >= self.safe or not [each for each in self.log if offset <= each < self.safe]
            self.places.rewind(partition, offset)
        self.handled, self.pending = 0, []

    @invariant()
    def nothing_is_known_of_what_is_not_read(self) -> None:
        if not self.read:
            known = (self.places.read, self.places.since, self.places.ends, self.places.committed)
            assert not any(known)


TestReading = Reading.TestCase


def test_what_was_fetched_before_a_rewind_does_not_count() -> None:
    places = PartitionOffsets()
    assert not places.take(HERE, 0)
    places.assign([HERE], 1)
    assert places.take(HERE, 0)
    assert places.take(HERE, 5)
    assert not places.take(HERE, 3)
    assert places.uncommitted() == {HERE: 0}
    places.end(HERE, 9)
    places.rewind(HERE, 0)
    places.end(HERE, 9)
    assert not places.drained, "an end that was reached before is none, as long as records are to be read again"
    assert places.settled({}) == {}
    assert places.take(HERE, 0)


def test_records_of_a_topic_made_anew_count_from_its_beginning() -> None:
    places = PartitionOffsets()
    places.assign([HERE], 1)
    assert places.take(HERE, 500)
    places.begin(HERE, 0)
    assert places.uncommitted() == {}
    assert places.take(HERE, 0)
    assert places.settled({HERE: 1}) == {HERE: 1}
