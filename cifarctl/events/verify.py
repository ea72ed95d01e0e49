"""Events of `verify-stream`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VerifyProgress:
    """Number of records of a topic read so far."""

    topic: str
    read: int


@dataclass(frozen=True)
class VerifyResult:
    """JSON of `verify-stream`: `exact` if every input below the committed offsets was answered exactly once, in order.

    `examples` lists a few violations; `notes` lists limits of the comparison. These counts make the result inexact:

    - `missing` and `duplicated` inputs, answers `beyond` the committed offsets, answers `out_of_order`
    - `mismatched` answers: their source offset holds a different message
    - `aged_out_unread` messages: retention removed them before they were read
    - partitions whose committed offset lies beyond their end (`beyond_end`) or belongs to a deleted topic of the same
      name (`other_topic`)

    These do not:

    - inputs `skipped` by `serve --from`, and inputs still `unread`
    - answers to inputs that retention (`aged_out`) or compaction (`compacted`) has removed since
    - inputs whose answers retention or compaction may have removed (`unverifiable`)
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
