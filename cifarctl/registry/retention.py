"""Which versions a clean-up must not touch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from cifarctl.registry.aliases import Alias
from cifarctl.registry.history import Move, rollback_target


def kept(
    numbers: Collection[int],
    aliases: Mapping[str, Alias],
    moves: Iterable[Move],
    *,
    newest: int,
    since: datetime,
) -> set[int]:
    """The versions to keep among the existing `numbers`.

    They are the `newest` ones, what an alias names or has named `since` (a version that an alias left after
    that time was named then), and what the next rollback of each alias would return to. `moves` are those
    that took place.
    """
    keep = set(sorted(numbers)[-newest:]) | {alias.version for alias in aliases.values()}
    by_alias: dict[str, list[Move]] = {name: [] for name in aliases}
    for move in moves:
        by_alias.setdefault(move.alias, []).append(move)
        if datetime.fromisoformat(move.time) >= since:
            keep |= {move.to_version, move.from_version or move.to_version}
    for own in by_alias.values():
        target = rollback_target(own, numbers.__contains__)
        if target is not None:
            keep.add(target)
    return keep & set(numbers)
