"""Shared by the users of Kafka transactions (KIP-98): time limits, and the meaning of errors."""

from __future__ import annotations

from confluent_kafka import KafkaError

from cifarctl.stream import connection

OPEN_TIMEOUT_S = 30.0  # a broker's first transaction makes it create a topic for them
CLOSE_TIMEOUT_S = 2.0

#: Trying again does not help; it may help with any other error.
PERMANENT = (
    connection.FORBIDDEN
    | connection.UNAUTHENTICATED
    | {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.INVALID_REQUIRED_ACKS,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
#: Another producer has the transactional id, or the broker has timed out the transaction and fenced its producer.
FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,  # librdkafka does not recover from it
    KafkaError._FATAL,
}
