"""Architectures of people's own, wherever a version is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from helpers import cifarctl, small_data, small_train


def test_the_code_of_a_version_is_run_only_where_it_is_trusted(own: Path, tmp_path: Path) -> None:
    """The trainer has named the code; loading must name it too."""
    options = [*small_data(500), *small_train(), f"--set=registry.dir={tmp_path / 'registry'}"]
    trained = cifarctl("train", "--epochs", "1", "--model", "own_networks:Small", "--json", *options)
    assert trained.exit_code == 0, trained.stderr
    assert json.loads(trained.stdout)["promoted"]
    assert "its code must be trusted: set registry.trusted_models = own_networks:Small" in trained.stderr
    sys.modules.pop("own_networks")
    runs = own.read_text()

    refused = cifarctl("eval", "--json", *options)
    assert refused.exit_code == 4
    assert "registry.trusted_models = own_networks:Small" in refused.stderr
    challenged = cifarctl("train", "--epochs", "1", "--json", *options)
    assert challenged.exit_code == 0, challenged.stderr
    assert not json.loads(challenged.stdout)["promoted"]  # rather than put away what cannot be compared with
    assert own.read_text() == runs

    allowed = cifarctl("eval", "--json", *options, "--set=registry.trusted_models=other:Net, own_networks:Small")
    assert allowed.exit_code == 0, allowed.stderr
    assert json.loads(allowed.stdout)["accuracy"] == json.loads(trained.stdout)["test_accuracy"]
    assert own.read_text() == runs + "x"
