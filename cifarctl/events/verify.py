"""The proof that each input was answered once."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VerifyProgress:
    """Records of a topic that have been read so far."""

    topic: str
    read: int


@dataclass(frozen=True)
class VerifyResult:
    """JSON of `verify-stream`: whether every input below the committed offsets was answered exactly once, in order.

    `examples` names a few of the places where that is not so, `notes` says what limits the comparison. Never exact:
    `mismatched` answers, whose source offset holds another message; `aged_out_unread` messages; partitions whose
    committed offset lies beyond the end (`beyond_end`) or is of another topic of that name (`other_topic`). No fault:
    inputs `skipped` on purpose by `serve --from` or `unread` yet; answers to inputs that have `aged_out` or were
    `compacted` away since; inputs whose answer may have been removed since, so that nothing is known (`unverifiable`).
    """

    topic: str
    group: str
    committed: dict[str, int]
    inputs: int
    predictions: int
    dead_letters: int
    missing: int
    duplicated: int
    beyond: int
    out_of_order: int
    exact: bool
    examples: list[str]
    mismatched: int = 0
    aged_out_unread: int = 0
    beyond_end: int = 0
    other_topic: int = 0
    skipped: int = 0
    unread: int = 0
    aged_out: int = 0
    compacted: int = 0
    unverifiable: int = 0
    notes: list[str] = field(default_factory=list)


VerifyEvent = VerifyProgress | VerifyResult
