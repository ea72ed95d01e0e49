"""Inspecting a registry: does each version load, does it fit the data, do aliases and history agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cifarctl import data
from cifarctl.errors import RegistryError
from cifarctl.registry import Manifest, Registry, validation
from cifarctl.registry.loading import load
from cifarctl.settings import DataSettings

LISTED = 10  # classes that are listed


def inspect(
    registry: Registry, numbers: Sequence[int], images: DataSettings, *, everything: bool
) -> list[dict[str, Any]]:
    """A finding for each version, and with `everything` one for each fault of aliases and history.

    Each has `version` and `problem`, None where there is none; `note` where a version was trained on other data, which
    is a problem only where an alias names a version with other classes.
    """
    findings: list[dict[str, Any]] = []
    strangers: dict[int, str] = {}
    for number in numbers:
        finding: dict[str, Any] = {"version": number, "problem": None}
        try:
            manifest = load(registry, number).manifest
            finding["problem"] = "; ".join(registry.verify(number)) or None
            if (other := other_classes(manifest, images)) is not None:
                strangers[number] = other
            if (note := other or _other_images(registry, manifest, images)) is not None:
                finding["note"] = note
        except RegistryError as error:
            finding["problem"] = str(error)
        findings.append(finding)
    if everything:
        findings += [{"version": None, "problem": str(fault)} for fault in registry.faults()]
        findings += [
            {"version": None, "problem": f"alias {name} names version {alias.version}: {strangers[alias.version]}"}
            for name, alias in registry.aliases().items()
            if alias.version in strangers
        ]
    return findings


def other_classes(manifest: Manifest, images: DataSettings) -> str | None:
    """How the classes of a version differ from those of the data that the settings name, if they do."""
    expected = data.classes(images)
    if expected is None or expected == manifest.classes:
        return None
    return (
        f"its classes are {_listed(manifest.classes)}, those of the data {_listed(expected)}; promote another version, "
        "or set data.source and data.dir to its images"
    )


def _other_images(registry: Registry, manifest: Manifest, images: DataSettings) -> str | None:
    """How a version's training images differ from those of the settings, or of this registry, if they do."""
    split = manifest.split
    if (split.seed, split.shares) != (images.split_seed, images.split):
        return (
            f"trained on the split data.split_seed = {split.seed}, data.split = {list(split.shares)}, not on that of "
            "the settings: its figures are of other images"
        )
    if not validation.path(registry, split.sha256).exists():
        return (
            "the registry has no validation images of its split, as of a version from elsewhere: its figures are of "
            f"other images; `cifarctl eval --version {manifest.version}` where its images are brings them"
        )
    return None


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:LISTED]) + (f" and {len(classes) - LISTED} more" if len(classes) > LISTED else "")
