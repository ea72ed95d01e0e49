"""How many inputs one transaction covers."""

from __future__ import annotations

import sys

#: Shares of the transaction timeout: a commit is slow if it takes longer than the first, quick if less than the second.
SLOW = 0.3
QUICK = 0.1
#: The same for a failed transaction: open for longer than this, it may have been aborted for its age.
OLD = 0.5
GROWTH = 1.25  # of the limit, after a quick commit that has reached it
UNLIMITED = sys.maxsize


class CommitSize:
    """The most inputs that one transaction covers, so that it ends well before the broker times it out.

    There is no limit while the broker keeps up. After a slow commit, or a transaction that failed when it was old, the
    limit is half of its inputs; each quick commit that reaches the limit raises it by a quarter.
    """

    def __init__(self, timeout_s: float, most: int) -> None:
        """Transactions time out after `timeout_s` seconds; a limit that grows beyond `most` inputs is lifted."""
        self._timeout_s, self._most = timeout_s, most
        self.limit = self._told = UNLIMITED  # now, and in the last line for people
        self._news: list[str] = []

    def committed(self, inputs: int, seconds: float) -> None:
        """Record a transaction of `inputs` whose commit took `seconds`; one without inputs shows nothing."""
        if inputs and seconds > SLOW * self._timeout_s:
            self._halve(inputs, f"a commit of {inputs:,} inputs took {seconds:.1f} s")
        elif inputs >= self.limit and seconds < QUICK * self._timeout_s:
            self.limit = int(self.limit * GROWTH) + 1
            if self.limit > self._most:
                self.limit = self._told = UNLIMITED
                self._news.append(
                    "the broker keeps up again: the number of inputs in a transaction is no longer limited"
                )

    def undone(self, inputs: int, seconds: float) -> None:
        """Record a transaction of `inputs` that failed after `seconds`."""
        if inputs and seconds > OLD * self._timeout_s:
            self._halve(inputs, f"a transaction of {inputs:,} inputs failed after {seconds:.1f} s")

    def news(self) -> list[str]:
        """Lines since the last call: the limit has halved since the last line, or is lifted."""
        told, self._news = self._news, []
        return told

    def _halve(self, inputs: int, why: str) -> None:
        self.limit = max(1, min(self.limit, inputs) // 2)
        if self.limit <= self._told // 2:
            self._told = self.limit
            self._news.append(
                f"the broker is slow: {why}, and it aborts transactions after {self._timeout_s:g} s "
                f"(kafka.options.transaction.timeout.ms); from now on each has at most {self.limit:,} inputs"
            )
