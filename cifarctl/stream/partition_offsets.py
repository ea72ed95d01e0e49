"""How far each assigned partition has been read and committed: the bookkeeping of a `Source`, without a client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cifarctl.stream.records import Partition


class PartitionOffsets:
    """The known offsets of each assigned partition; nothing is kept about other partitions."""

    def __init__(self) -> None:
        """Nothing is assigned yet."""
        self.assigned: set[Partition] = set()
        self.terms: dict[Partition, int] = {}  # changes whenever a partition is assigned anew
        self.read: dict[Partition, int] = {}  # next offset to read
        self.since: dict[Partition, int] = {}  # first offset read since the last commit
        self.committed: dict[Partition, int] = {}  # the group's offset, if known
        self.ends: dict[Partition, int] = {}  # the end, of partitions read up to it
        self.reached: set[Partition] = set()  # partitions that have been read to their end once
        self._rewound: set[Partition] = set()  # an end reported before the rewind does not count

    @property
    def drained(self) -> bool:
        """Whether partitions are assigned and all are read to their end."""
        return bool(self.assigned) and self.assigned <= self.ends.keys()

    @property
    def caught_up(self) -> bool:
        """Whether partitions are assigned and each has been read to its end once, whatever has arrived since."""
        return bool(self.assigned) and self.assigned <= self.reached

    def assign(self, partitions: Iterable[Partition], term: int) -> None:
        """Add partitions that are read here from now on."""
        for partition in partitions:
            self.assigned.add(partition)
            self.terms[partition] = term

    def forget(self, gone: Iterable[Partition]) -> None:
        """Drop partitions that are not read here any more."""
        for partition in gone:
            self.assigned.discard(partition)
            self.reached.discard(partition)
            self._rewound.discard(partition)
            for known in (self.terms, self.read, self.since, self.committed, self.ends):
                known.pop(partition, None)

    def take(self, partition: Partition, offset: int) -> bool:
        """Record that a message was read; False if it was fetched before the last rebalance or rewind."""
        if partition not in self.assigned or offset < self.read.get(partition, 0):
            return False
        self.ends.pop(partition, None)
        self._rewound.discard(partition)
        self.read[partition] = offset + 1
        self.since.setdefault(partition, offset)
        return True

    def end(self, partition: Partition, offset: int) -> None:
        """Record that the end of the partition was reached, at `offset`."""
        if partition in self.assigned - self._rewound:  # as in `take`
            self.ends[partition] = offset
            self.reached.add(partition)

    def settled(self, handled: Mapping[Partition, int]) -> dict[Partition, int]:
        """The offsets to commit once all records before `handled` are done: positions, not last records + 1.

        After its last record a partition may hold control records and the leftovers of aborted transactions, which no
        reader is given; its end tells how far they reach. A partition with only those left to commit is added. The
        offsets never pass a record that was read but not handled.
        """
        offsets = {each: max(offset, self.since.get(each, offset)) for each, offset in handled.items()}
        for partition, end in self.ends.items():
            read = self.read.get(partition)
            known = self.committed if read is None else self.since
            done = offsets.get(partition, known.get(partition))
            if done is not None and done < end and (read is None or done >= read):
                offsets[partition] = end
        return offsets

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Record that everything before these offsets is committed."""
        for partition, offset in offsets.items():
            if partition in self.assigned:
                self.committed[partition] = max(offset, self.committed.get(partition, offset))
                for known in (self.since, self.read):  # there is no record in between
                    if partition in known:
                        known[partition] = max(known[partition], offset)

    def uncommitted(self) -> dict[Partition, int]:
        """The offsets from which to read again, of partitions that were read since the last commit."""
        return {each: since for each, since in self.since.items() if self.read.get(each) != since}

    def rewind(self, partition: Partition, offset: int) -> None:
        """Record that the partition is read again from `offset`."""
        self.read[partition] = offset
        self.ends.pop(partition, None)
        self._rewound.add(partition)

    def begin(self, partition: Partition, offset: int) -> None:
        """Record that the partition is read from `offset` on; the records read before are gone."""
        for known in (self.read, self.since, self.ends):
            known.pop(partition, None)
        self._rewound.discard(partition)
        self.committed[partition] = offset

    def furthest(self, partition: Partition) -> int:
        """The offset up to which the partition has been read; -1 while that is unknown."""
        known = (self.read, self.ends, self.committed)
        return max((places[partition] for places in known if partition in places), default=-1)

    def done(self, partition: Partition) -> int:
        """The offset up to which everything read is committed; -1 while that is unknown."""
        read, since = self.read.get(partition), self.since.get(partition)
        return since if read is not None and since is not None and since < read else self.furthest(partition)
