"""How much goes into one transaction."""

from __future__ import annotations

import sys

#: Shares of the transaction's timeout: a commit that takes longer than the one is slow, less than the other quick.
SLOW = 0.3
QUICK = 0.1
#: Of a transaction that comes to nothing: when it was open that long, the broker may have given it up for its age.
OLD = 0.5
GROWTH = 1.25  # of what a quick commit has carried
UNLIMITED = sys.maxsize


class CommitSize:
    """The most inputs that one transaction answers, so that it is over well before the broker gives it up.

    That is as many as come, while the broker keeps up. Where a transaction grows old or its commit is slow, half of
    what it carried is the most from then on; quick commits that carry the most raise that again by a quarter.
    """

    def __init__(self, timeout_s: float, most: int) -> None:
        """Transactions are given up after `timeout_s` seconds; a limit that grows beyond `most` inputs is none."""
        self._timeout_s, self._most = timeout_s, most
        self.limit = self._told = UNLIMITED  # now, and when it was last told of
        self._news: list[str] = []

    def committed(self, inputs: int, seconds: float) -> None:
        """Take note of a transaction of so many inputs whose commit took that long; of none, it tells nothing."""
        if inputs and seconds > SLOW * self._timeout_s:
            self._halve(inputs, f"a commit of {inputs:,} inputs took {seconds:.1f} s")
        elif inputs >= self.limit and seconds < QUICK * self._timeout_s:
            self.limit = int(self.limit * GROWTH) + 1
            if self.limit > self._most:
                self.limit = self._told = UNLIMITED
                self._news.append("the broker keeps up again: transactions carry as many inputs as come")

    def undone(self, inputs: int, seconds: float) -> None:
        """Take note of a transaction of so many inputs that came to nothing when it was that old."""
        if inputs and seconds > OLD * self._timeout_s:
            self._halve(inputs, f"a transaction of {inputs:,} inputs came to nothing after {seconds:.1f} s")

    def news(self) -> list[str]:
        """Lines since the last call: that it has shrunk to half of what they last said, or that it is over."""
        told, self._news = self._news, []
        return told

    def _halve(self, inputs: int, why: str) -> None:
        self.limit = max(1, min(self.limit, inputs) // 2)
        if self.limit <= self._told // 2:
            self._told = self.limit
            self._news.append(
                f"the broker is slow: {why}, and it gives up a transaction after {self._timeout_s:g} s "
                f"(kafka.options.transaction.timeout.ms); from now on one carries {self.limit:,} at most"
            )
