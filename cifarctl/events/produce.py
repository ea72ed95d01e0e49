"""Events of `produce`."""

from __future__ import annotations

from dataclasses import dataclass

from cifarctl.events.notice import Notice


@dataclass(frozen=True)
class ProduceStarted:
    """The producer starts; `count` None = until stopped, `rate` in messages per second, 0 = unlimited."""

    topic: str
    images: int
    count: int | None
    rate: float
    format: str
    drift: str


@dataclass(frozen=True)
class ProduceProgress:
    """Images acknowledged (`sent`) and `failed` so far; `queued` ones have no delivery report yet.

    The `labels_...` fields count delayed labels; `labels_waiting` of them are not due yet.
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
    """JSON of `produce`; `seconds` from sending the first image to the acknowledgement of the last.

    `sent` images are acknowledged; `failed` ones did not arrive; `unconfirmed` ones were abandoned without a delivery
    report and may have arrived. The `labels_...` fields count delayed labels in the same way.
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
