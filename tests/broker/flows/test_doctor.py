"""`cifarctl doctor` where a broker answers; test_cli.py has the other failures, test_security.py the rights."""

from __future__ import annotations

import json

from helpers import Home, cifarctl

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.clients import Topics


def findings(home: Home, kafka: KafkaSettings, *options: str) -> tuple[int, dict[str, dict[str, object]]]:
    place = (f"--set=kafka.{name}={getattr(kafka, name)}" for name in ("bootstrap_servers", "topic_prefix", "group_id"))
    result = cifarctl("doctor", "--json", *home.options, *place, *options)
    return result.exit_code, {check["check"]: check for check in json.loads(result.stdout)}


def test_nothing_is_wrong(home: Home, kafka: KafkaSettings) -> None:
    topics = Topics.of(kafka.topic_prefix)
    clients.ensure_topics(kafka, [topics.images])
    code, found = findings(home, kafka)
    assert code == 0, found
    assert list(found) == ["device", "data", "registry", "broker", "credentials", "topics"]
    assert "the embedded broker" in found["broker"]["finding"]
    assert found["credentials"]["finding"] == "anybody (PLAINTEXT) may do what produce, serve and retrain need"
    assert f"{topics.images}: 3 partitions" in found["topics"]["finding"]
    assert f"{topics.predictions}: made when first needed" in found["topics"]["finding"]


def test_absent_topics_that_may_not_be_made_are_a_failure(home: Home, kafka: KafkaSettings) -> None:
    code, found = findings(home, kafka, "--set=kafka.create_topics=false")
    assert code == 5
    assert [name for name, check in found.items() if not check["ok"]] == ["topics"]
    assert "kafka.create_topics is false: create them" in str(found["topics"]["finding"])
