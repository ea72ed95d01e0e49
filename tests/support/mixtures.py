"""Lineages of the strategy `mixture`."""

from __future__ import annotations

from lineages import (
    ARGUMENTS,
    CLASSES,
    Lineage,
    blank,
    labelled,
)

from cifarctl.models.architectures.mixture import Mixture
from cifarctl.online.strategies import Snapshot


def kept(lineage: Lineage) -> list[str]:
    """Members that were put away for concepts that have passed."""
    _, state = lineage.strategy.dump()
    return [name for name in state["members"] if name.startswith("kept")]


def concept(lineage: Lineage, label: int, *, drifted: bool = False) -> Snapshot:
    """A concept in which everything is of one class: what it asks for is learned, and then proves itself."""
    told = {"reference": labelled(label), "reservoir": labelled(label), "learning_rate": 0.5}
    snapshot = lineage.learn(labelled(label, 20), drifted=drifted, **told)
    lineage.strategy.observe(labelled(label))
    return snapshot


def pool(*labels: int) -> Snapshot:
    """A mixture around a network that knows nothing, with members that find one class nearly certain."""
    members = [blank(), *(blank(label) for label in labels)]
    arguments = {"member": "tiny", "arguments": ARGUMENTS, "members": len(members), "classes": CLASSES}
    return Snapshot("mixture", arguments, Mixture(members, CLASSES).eval())
