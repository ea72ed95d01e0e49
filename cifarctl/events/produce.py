"""The paced producer."""

from __future__ import annotations

from dataclasses import dataclass

from cifarctl.events.notice import Notice


@dataclass(frozen=True)
class ProduceStarted:
    """What is sent where; `count` None = until stopped, `rate` 0 = full speed."""

    topic: str
    images: int
    count: int | None
    rate: float
    format: str
    drift: str


@dataclass(frozen=True)
class ProduceProgress:
    """Acknowledged and failed images so far; `queued` still wait for their delivery report.

    The same of delayed labels, of which `labels_waiting` are not due yet.
    """

    sent: int
    failed: int
    queued: int
    seconds: float
    phase: str
    labels_sent: int = 0
    labels_failed: int = 0
    labels_waiting: int = 0


@dataclass(frozen=True)
class ProduceResult:
    """JSON of `produce`: images, in seconds from the first to the acknowledgement of the last; then late labels.

    `sent` are acknowledged, `failed` have not arrived; `unconfirmed` were given up on their way and may have arrived.
    """

    sent: int
    failed: int
    seconds: float
    messages_per_second: float
    labels_sent: int = 0
    labels_failed: int = 0
    unconfirmed: int = 0
    labels_unconfirmed: int = 0


ProduceEvent = ProduceStarted | ProduceProgress | ProduceResult | Notice
