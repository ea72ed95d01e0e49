"""Leader election among learners: the only partition of the learner's topic, and a log that only the leader writes.

The member of the group that is assigned the partition is the leader; the others stand by. Its writes are fenced as
Kafka fences transactions (KIP-98): all leaders use one transactional id, and a new leader fences the one before.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from functools import partial

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from cifarctl.errors import CifarctlError, Superseded
from cifarctl.settings import KafkaSettings
from cifarctl.stream import background, browse, clients, connection, rights
from cifarctl.stream.background import OVERTIME_S
from cifarctl.stream.records import Partition
from cifarctl.stream.sender import Sender
from cifarctl.stream.source import Source
from cifarctl.stream.transactions import OPEN_TIMEOUT_S, PERMANENT

BATCH = 1000  # records; the log is read only to stay a member
WAIT_S = 0.2
ABORT_S = 2.0


class Candidate:
    """Leadership of the learners: this process is a candidate, and the leader once `wait` says so.

    A thread keeps the membership alive, whatever its owner is busy with. A suspended process loses leadership when its
    session times out and notices when it wakes; its commits until then are refused.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        """The group is joined by the first `wait`."""
        self._settings = settings
        self._topic = clients.Topics.of(settings.topic_prefix).learner
        self._group = f"{settings.topic_prefix}.active-learner"  # one leader for each prefix, not for each group
        self._admin: AdminClient | None = None
        self._held, self._closing = threading.Event(), threading.Event()
        self._failure: CifarctlError | None = None
        #: Why the broker does not answer; None while it does.
        self.trouble: str | None = None
        self._thread: threading.Thread | None = None
        self._sender: Sender | None = None

    @property
    def taken(self) -> bool:
        """Whether there is a leader or a candidate; to be asked before `wait`.

        Raises:
            BrokerError: no answer, or no permission to ask.
        """
        with connection.broker_errors(self._settings, f"cannot describe the group {self._group}"):
            if self._admin is None:
                self._admin = connection.create(AdminClient, self._settings, {}, None)
            describe = self._admin.describe_consumer_groups

            def ask() -> bool:
                (answer,) = describe([self._group], request_timeout=self._settings.timeout_s).values()
                return bool(answer.result().members)

            try:
                return connection.patiently(ask, self._settings.timeout_s)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return False
                raise

    @property
    def held(self) -> bool:
        """Whether this process is the leader, as far as it knows."""
        return self._held.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Join the candidates, unless that is done, and wait up to `timeout_s` seconds for leadership.

        Raises:
            BrokerError: no broker answers, or it refuses.
        """
        if self._thread is None:
            rights.ensure_topics(self._settings, {self._topic: ["Read", "Write"]})
            source = Source(self._settings, [self._topic], group_id=self._group, on_gap=lambda _: None)
            self._thread = threading.Thread(target=self._keep, args=(source,), name="leadership", daemon=True)
            self._thread.start()
        held = self._held.wait(timeout_s)
        if self._failure is not None:
            raise self._failure
        return held

    def take(self, on_wait: Callable[[], None]) -> list[bytes]:
        """Fence the previous leader; returns all that leaders have committed, oldest first.

        `on_wait` is called while the broker does not answer, and may raise.

        Raises:
            BrokerError: the broker refuses, or opens no transaction within half a minute.
            Superseded: another process has become the leader meanwhile.
        """
        self._drop()
        self._sender = Sender(self._settings, transactional_id=self._topic, options={"linger.ms": 0})
        with self._aborting():
            begin = partial(self._sender.producer.init_transactions, self._settings.timeout_s)
            self._repeat(begin, on_wait, patience_s=OPEN_TIMEOUT_S)
        return [record.value for record in browse.read(self._settings, self._topic) if record.value is not None]

    def commit(
        self,
        value: bytes,
        on_wait: Callable[[], None],
        offsets: Mapping[Partition, int] | None = None,
        source: Source | None = None,
    ) -> None:
        """Write one record, and the `offsets` that `source` has read, in one transaction.

        Raises:
            BrokerError: the broker refuses for good.
            Superseded: another process is the leader now, or `source` has lost its partitions, or the broker was away
                for too long. `take` leadership again; the log shows whether the record was committed.
        """
        assert self._sender is not None
        producer, limit = self._sender.producer, self._settings.timeout_s
        with self._aborting():
            producer.begin_transaction()
            self._sender.enqueue(self._topic, None, value)
            if offsets and source is not None:
                places: list[TopicPartition] = []
                self._repeat(lambda: places.extend(source.marked(offsets)), on_wait)
                metadata = source.group_metadata()
                self._repeat(partial(producer.send_offsets_to_transaction, places, metadata, limit), on_wait)
            self._repeat(partial(producer.commit_transaction, limit), on_wait)

    def close(self) -> None:
        """Resign."""
        self._closing.set()
        self._drop()
        if self._thread is not None:
            self._thread.join()

    def _keep(self, source: Source) -> None:
        try:
            with source:
                while not self._closing.is_set():
                    source.read(BATCH, WAIT_S)
                    self.trouble = source.last_error
                    (self._held.set if source.assigned else self._held.clear)()
                self._held.clear()
        except CifarctlError as error:
            self._failure = error
            self._held.clear()

    def _repeat(self, call: Callable[[], object], on_wait: Callable[[], None], patience_s: float = math.inf) -> None:
        """Repeat a call while it fails for transient reasons, for at most `patience_s` seconds."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                background.start(call).result(self._settings.timeout_s + OVERTIME_S)
                return
            except KafkaException as error:
                reason = error.args[0]
                transient = reason.retriable() or reason.code() in connection.TRANSIENT
                if reason.fatal() or reason.txn_requires_abort() or not transient:
                    raise
                if time.monotonic() >= deadline:
                    doing = f"no transaction within {patience_s:g} s"
                    raise connection.explain(self._settings, doing, reason) from None
            on_wait()
            time.sleep(connection.RETRY_S)

    @contextmanager
    def _aborting(self) -> Iterator[None]:
        """Give up the transaction on any error, and translate the error."""
        try:
            yield
        except KafkaException as error:
            reason = error.args[0]
            self._drop()
            if reason.code() in PERMANENT:
                raise connection.explain(self._settings, f"cannot write to {self._topic}", reason) from None
            raise Superseded(f"this learner is no longer the leader: {reason.str()}") from None
        except FutureTimeout:
            self._drop()
            raise Superseded(f"{self._settings.bootstrap_servers} has not confirmed a decision") from None
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._sender is not None:
            background.start(_end, self._sender)
            self._sender = None


def _end(sender: Sender) -> None:
    """Abort an open transaction, so that no reader waits for it, and let go of the producer."""
    with suppress(KafkaException):
        sender.producer.abort_transaction(ABORT_S)
    sender.producer.purge()
