"""The compose files, as tools of others understand them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from containers import FILES, run


def docker_has_compose() -> bool:
    return shutil.which("docker") is not None and run("docker", "compose", "version").returncode == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_compose_file_follows_the_specification(file: Path) -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    checked = run(sys.executable, "-m", "check_jsonschema", *schema, str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(not docker_has_compose(), reason="no docker client with the compose plugin")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_docker_accepts_the_compose_file(file: Path) -> None:
    checked = run("docker", "compose", "-f", str(file), "config", "-q")
    assert checked.returncode == 0, checked.stderr
