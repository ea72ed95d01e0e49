"""Everything that talks to Kafka: wire formats, clients, reading, sending and committing, an embedded broker.

The only package that imports ``confluent_kafka``; it never imports torch, so that what sends starts at once.
"""
