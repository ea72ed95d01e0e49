"""Where everything lies in the registry's folder, and the names of versions there.

    versions/000007/{model.safetensors, manifest.json, plots/}   immutable once visible
    versions/000003.deleted                                      tombstone: the number is never used again
    versions/.staging-*, .trash-*                                being written, being deleted: never read
    aliases/production                                           one small file, replaced atomically
    history.jsonl                                                every alias move, written ahead of the move
    damaged/                                                     files as they were before a repair
    validation/                                                  images of splits, see registry.validation
    training/                                                    checkpoints of offline training
    learner/                                                     the learner's checkpoint, epoch and requests
    .lock                                                        held by a writer; readers need no lock

Everything that becomes visible does so by one rename of something that is already synced.
"""

from __future__ import annotations

import re

from cifarctl.registry.files import TRASH

VERSIONS = "versions"
VALIDATION = "validation"
TRAINING = "training"
LEARNER = "learner"
LOCK = ".lock"

MODEL_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"
PLOTS = "plots"

_FOLDER = re.compile(r"[0-9]{6,18}")
_TOMBSTONE = re.compile(r"([0-9]{6,18})\.deleted")


def folder_name(version: int) -> str:
    """Name of the folder of a version."""
    return f"{version:06d}"


def tombstone_name(version: int) -> str:
    """Name of the file that says that a version was deleted."""
    return f"{folder_name(version)}.deleted"


def version_of_folder(name: str) -> int | None:
    """The version whose folder has that name; None where no version's folder has."""
    return int(name) if _FOLDER.fullmatch(name) and name == folder_name(int(name)) else None


def version_of_tombstone(name: str) -> int | None:
    """The deleted version whose tombstone has that name; None where no tombstone has."""
    found = _TOMBSTONE.fullmatch(name)
    return int(found[1]) if found else None


def version_of_trash(name: str) -> int | None:
    """The version that is being deleted in a folder of that name; None where none is."""
    number = name.removeprefix(TRASH).partition("-")[0] if name.startswith(TRASH) else ""
    return int(number) if _FOLDER.fullmatch(number) else None
