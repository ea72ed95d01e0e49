"""The files of the containers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from helpers import ROOT
from ruamel.yaml import YAML

FOLDER = ROOT / "compose"
SINGLE, CLUSTER = FOLDER / "kafka.yml", FOLDER / "cluster.yml"
FILES = (SINGLE, CLUSTER)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def services(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(file)["services"]
    return found


def brokers(file: Path) -> dict[str, Any]:
    return {name: service for name, service in services(file).items() if service["image"].startswith("apache/")}


def programs() -> dict[str, Any]:
    """The services of the cluster that run cifarctl."""
    return {name: service for name, service in services(CLUSTER).items() if service["image"] == "cifarctl"}


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a container: those of its file, and its own, which are stronger."""
    common = dotenv_values(FOLDER / service["env_file"]) if "env_file" in service else {}
    return {name: str(value) for name, value in (common | service.get("environment", {})).items()}


def properties(variables: Mapping[str, str]) -> dict[str, str]:
    """What the official image makes of its environment: KAFKA_A_B__C___D is a.b_c-d."""
    own = {name.removeprefix("KAFKA_"): value for name, value in variables.items() if name.startswith("KAFKA_")}
    return {
        re.sub("_+", lambda found: {1: ".", 2: "_", 3: "-"}[len(found.group())], name.lower()): value
        for name, value in own.items()
        if name != "HEAP_OPTS"
    }
