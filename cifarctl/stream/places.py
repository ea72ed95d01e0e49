"""How far each assigned partition has been read and committed: the bookkeeping of a `Source`, without a client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cifarctl.stream.records import Partition


class Places:
    """The offsets that are known of each assigned partition; of others nothing is kept."""

    def __init__(self) -> None:
        """Nothing is assigned."""
        self.assigned: set[Partition] = set()
        self.terms: dict[Partition, int] = {}  # a number that changes whenever a partition is assigned anew
        self.read: dict[Partition, int] = {}  # next offset to read
        self.since: dict[Partition, int] = {}  # first offset read since the last commit
        self.committed: dict[Partition, int] = {}  # where the group goes on, as far as that is known
        self.ends: dict[Partition, int] = {}  # offset of the end, of those that have been read up to it
        self.reached: set[Partition] = set()  # those that have been read to their end once
        self._rewound: set[Partition] = set()  # those whose next record was read before: an end is none until it comes

    @property
    def drained(self) -> bool:
        """Whether partitions are assigned and all are read to their end."""
        return bool(self.assigned) and self.assigned <= self.ends.keys()

    @property
    def caught_up(self) -> bool:
        """Whether partitions are assigned and each has been read to its end once, whatever has arrived since."""
        return bool(self.assigned) and self.assigned <= self.reached

    def assign(self, partitions: Iterable[Partition], term: int) -> None:
        """They are read here from now on."""
        for partition in partitions:
            self.assigned.add(partition)
            self.terms[partition] = term

    def forget(self, gone: Iterable[Partition]) -> None:
        """They are not read here any more."""
        for partition in gone:
            self.assigned.discard(partition)
            self.reached.discard(partition)
            self._rewound.discard(partition)
            for known in (self.terms, self.read, self.since, self.committed, self.ends):
                known.pop(partition, None)

    def take(self, partition: Partition, offset: int) -> bool:
        """Take note of a record; False where it was fetched before a rebalance or a rewind and came after it."""
        if partition not in self.assigned or offset < self.read.get(partition, 0):
            return False
        self.ends.pop(partition, None)
        self._rewound.discard(partition)
        self.read[partition] = offset + 1
        self.since.setdefault(partition, offset)
        return True

    def end(self, partition: Partition, offset: int) -> None:
        """Take note that the end was reached, at `offset`."""
        if partition in self.assigned - self._rewound:  # as in `take`
            self.ends[partition] = offset
            self.reached.add(partition)

    def settled(self, handled: Mapping[Partition, int]) -> dict[Partition, int]:
        """What to commit when all records before `handled` are done with: positions, not last records + 1.

        Behind its last record a partition may hold marks of transactions and what aborted ones have left, which nobody
        is given to read; its end tells how far. A partition of which all is committed but these is added. Never
        beyond a record that was read and is not among the handled ones.
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
        """Take note that all before these offsets is done with."""
        for partition, offset in offsets.items():
            if partition in self.assigned:
                self.committed[partition] = max(offset, self.committed.get(partition, offset))
                for known in (self.since, self.read):  # there is no record between them and the offset
                    if partition in known:
                        known[partition] = max(known[partition], offset)

    def uncommitted(self) -> dict[Partition, int]:
        """Where the partitions of which something was read since the last commit are to be read again."""
        return {each: since for each, since in self.since.items() if self.read.get(each) != since}

    def rewind(self, partition: Partition, offset: int) -> None:
        """It is read from `offset` again."""
        self.read[partition] = offset
        self.ends.pop(partition, None)
        self._rewound.add(partition)

    def begin(self, partition: Partition, offset: int) -> None:
        """It is read from `offset` on, whatever was read before: those records are gone."""
        for known in (self.read, self.since, self.ends):
            known.pop(partition, None)
        self._rewound.discard(partition)
        self.committed[partition] = offset

    def furthest(self, partition: Partition) -> int:
        """The offset up to which it has been read; -1 where that is not known yet."""
        known = (self.read, self.ends, self.committed)
        return max((places[partition] for places in known if partition in places), default=-1)

    def done(self, partition: Partition) -> int:
        """The offset up to which all that was read is committed; -1 where that is not known yet."""
        read, since = self.read.get(partition), self.since.get(partition)
        return since if read is not None and since is not None and since < read else self.furthest(partition)
