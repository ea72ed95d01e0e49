"""The files around the program: packaging, licence, words."""

from __future__ import annotations

import importlib.metadata
import re

import pytest
from helpers import ROOT

import cifarctl

# --- package


def test_installed_metadata() -> None:
    metadata = importlib.metadata.metadata("cifarctl")
    assert {"embedded", "test", "dev"} <= set(metadata.get_all("Provides-Extra") or ())
    bounds = dict(re.findall(r"(>=|<)([\d.]+)", metadata["Requires-Python"]))
    makefile = dict(re.findall(r"^(OLDEST|BEFORE) := ([\d.]+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert bounds == {">=": makefile["OLDEST"], "<": makefile["BEFORE"]}
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="cifarctl")
    assert script.value == "cifarctl.cli:main"


def test_the_changelog_knows_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert cifarctl.__version__ in headings


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert re.findall(r"^ +(\d)\. [A-Z]", text, flags=re.MULTILINE) == list("123456789")
    assert "END OF TERMS AND CONDITIONS" in text


# --- tests

MODULES = sorted((ROOT / "tests").rglob("test_*.py"))


def test_test_modules_have_at_most_500_lines() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_test_modules_lie_in_a_tier_and_in_the_folder_of_a_package() -> None:
    packages = {path.parent.name for path in (ROOT / "cifarctl").glob("*/__init__.py")} | {"project"}
    places = {path.relative_to(ROOT / "tests").parent.parts for path in MODULES}
    assert {place[0] for place in places} == {"unit", "broker", "kafka", "slow"}
    assert {place[1] for place in places if len(place) > 1} <= packages


# --- words

#: Phrases that readers stumbled over; each has a plain successor.
RETIRED = (
    "does not mind being looked at",
    "all for people goes to stderr",
    "most messages in a micro-batch",
    "so many of the validation images are right",
    "of the newest images otherwise",
    "is not gone back to",
    "left to who calls",
)


@pytest.mark.parametrize("phrase", RETIRED)
def test_retired_phrases_do_not_come_back(phrase: str) -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "cifarctl").rglob("*.py")]
    assert [path.name for path in files if phrase in " ".join(path.read_text().split())] == []
