"""JSON documents, and `config`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from command_line import document
from helpers import Home, cifarctl
from PIL import Image

from cifarctl import events, settings

SECRET = "correct horse battery"

# --- JSON


def test_the_document_of_eval(home: Home, tmp_path: Path) -> None:
    found = document("eval", *home.options, "--confusion", tmp_path / "here.png")
    assert list(found) == ["version", "accuracy", "loss", "ece", "per_class", "confusion"]
    assert list(found["per_class"]) == list(home.dataset.classes)
    assert sum(map(sum, found["confusion"])) == len(home.dataset.test)
    with Image.open(tmp_path / "here.png") as picture:
        assert picture.format == "PNG"
    for reference in ("1", "latest", "v1"):
        assert document("eval", "--version", reference, *home.options) == found


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            events.ProduceResult,
            "sent failed seconds messages_per_second labels_sent labels_failed unconfirmed labels_unconfirmed",
        ),
        (
            events.ServeResult,
            "predicted dead_lettered labelled accuracy seconds messages_per_second latency_ms model_versions swaps "
            "by_version latency_left_out labels_unmatched",
        ),
        (
            events.OnlineServeResult,
            "predicted dead_lettered labelled accuracy seconds messages_per_second latency_ms model_versions swaps "
            "by_version latency_left_out labels_unmatched buffer retrains promotions rollbacks",
        ),
        (events.RetrainResult, "outcome examples champion challenger reasons seconds update"),
        (events.EvaluateResult, "version accuracy loss ece per_class confusion"),
    ],
)
def test_names_of_fields_that_scripts_rely_on(kind: type, names: str) -> None:
    assert [field.name for field in fields(kind)] == names.split()


def test_the_synthetic_images_are_announced_loudly(home: Home) -> None:
    for extra in ([], ["--quiet"], ["--json"], ["--json", "--quiet"]):
        result = cifarctl("eval", *home.options, *extra)
        assert result.exit_code == 0
        assert "WARNING: the images are synthetic" in result.stderr
    assert "accuracies on them are not CIFAR-10's" in result.stderr


def test_quiet_says_nothing(home: Home) -> None:
    result = cifarctl("registry", "list", "--quiet", *home.options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


# --- config


def test_config_tells_values_and_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARCTL_KAFKA__SASL_PASSWORD", SECRET)
    Path("cifarctl.toml").write_text("[serve]\nbatch_size = 7\n")
    monkeypatch.setenv("CIFARCTL_KAFKA__OPTIONS", json.dumps({"sasl.password": SECRET}))
    options = ["--set", "train.epochs=3"]
    found = document("config", *options)
    assert found.keys() == {setting.name for setting in settings.declared()}
    assert found["train.epochs"] == {"value": "3", "source": "option"}
    assert found["serve.batch_size"] == {"value": "7", "source": "cifarctl.toml"}
    assert found["kafka.sasl_password"] == {"value": settings.MASK, "source": "environment"}
    assert found["train.seed"] == {"value": "0", "source": "default"}
    for result in (cifarctl("config", "--json", *options), cifarctl("config", *options)):
        assert result.exit_code == 0
        assert SECRET not in result.stdout + result.stderr
        assert "sasl.password" in result.stdout


def test_config_writes_the_example_and_the_reference() -> None:
    assert cifarctl("config", "--env-example").stdout == settings.env_example()
    assert cifarctl("config", "--reference").stdout == settings.reference()
