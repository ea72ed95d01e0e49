"""`retrain` from the command line, on the embedded broker."""

from __future__ import annotations

import json
import time

import pytest
from command_line import document, fails, one_line
from helpers import ALL, Home, cifarctl, republish

from cifarctl.settings import KafkaSettings

# --- 3: data


@pytest.mark.parametrize("command", [["serve", "--online"], ["retrain"]], ids=" ".join)
def test_nothing_is_learned_from_a_version_of_all_images(
    home: Home,
    kafka: KafkaSettings,
    command: list[str],
) -> None:
    home.registry.promote(republish(home.registry, seen=ALL), who="somebody", why="by hand")
    message = fails(3, *command, "--json", *home.options, *to_kafka(kafka))
    assert message.startswith("version 2 was trained on train, validation, stream images")
    assert "`cifarctl train --promote` without --full" in message
    assert "online.allow_full" in message


# --- 6 and 7: quality and quantity


def to_kafka(kafka: KafkaSettings) -> list[str]:
    names = ("bootstrap_servers", "topic_prefix", "group_id", "session_timeout_ms", "commit_interval_ms")
    return [f"--set=kafka.{name}={getattr(kafka, name)}" for name in names]


RETRAIN_FIELDS = ["outcome", "examples", "champion", "challenger", "reasons", "seconds", "update"]


def test_too_few_examples(home: Home, kafka: KafkaSettings) -> None:
    sent = document("produce", "--rate", "0", "--count", "30", *home.options, *to_kafka(kafka))
    names = ["sent", "failed", "seconds", "messages_per_second", "labels_sent", "labels_failed"]
    assert list(sent) == [*names, "unconfirmed", "labels_unconfirmed"]
    assert (sent["sent"], sent["failed"], sent["labels_sent"], sent["labels_failed"]) == (30, 0, 0, 0)
    result = cifarctl("retrain", "--json", *home.options, *to_kafka(kafka))
    found = json.loads(result.stdout)
    assert list(found) == RETRAIN_FIELDS
    assert (found["outcome"], found["examples"]) == ("not_enough_data", 30)
    message = one_line(result, 7, stdout=True)
    assert "30 labelled examples since the last update, 200 are wanted" in message
    assert "online.min_examples" in message


def test_learning_anew_from_what_came_since_a_time(home: Home, kafka: KafkaSettings) -> None:
    """Whatever was learned from before counts again."""
    document("produce", "--rate", "0", "--count", "120", *home.options, *to_kafka(kafka))
    hopeless = [
        "--json", *home.options, *to_kafka(kafka), "--set=online.min_examples=100", "--set=online.steps=1",
        "--set=online.learning_rate=1e-9", "--set=online.learning_rate_min=1e-9",
    ]  # fmt: skip
    in_an_hour = f"@{time.time() + 3600:.0f}"
    found = [
        json.loads(cifarctl("retrain", *since, *hopeless).stdout)
        for since in ([], [], ["--since", "1h"], ["--since", in_an_hour], ["--since", "1h", "--dry-run"])
    ]
    assert [(result["outcome"], result["examples"]) for result in found] == [
        ("rejected", 120),
        ("not_enough_data", 0),
        ("rejected", 120),
        ("not_enough_data", 0),
        ("rejected", 120),
    ]
    assert one_line(cifarctl("retrain", "--since", "yesterday", *hopeless), 2, stdout=False).startswith(
        "--since yesterday: expected 90s, 30m, 2h, 1d, or a time"
    )
    assert one_line(cifarctl("retrain", "--since", "1h", "--follow", *hopeless), 2, stdout=False).startswith(
        "--follow and --since are mutually exclusive"
    )


def test_a_rejected_challenger(home: Home, kafka: KafkaSettings) -> None:
    document("produce", "--rate", "0", "--count", "120", *home.options, *to_kafka(kafka))
    result = cifarctl(
        "retrain", "--json", *home.options, *to_kafka(kafka), "--set=online.min_examples=100", "--set=online.steps=1",
        "--set=online.learning_rate=1e-9", "--set=online.learning_rate_min=1e-9",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert list(found) == RETRAIN_FIELDS
    assert (found["outcome"], found["examples"]) == ("rejected", 120)
    assert (found["champion"]["version"], found["challenger"]["version"]) == (1, None)
    assert one_line(result, 6, stdout=True).startswith("the challenger was rejected: ")
    assert home.registry.resolve("production") == 1
    assert home.registry.history()[-1].action == "reject"
