"""The versions that a clean-up keeps."""

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
    bases: Mapping[int, int],
    newest: int,
    since: datetime,
) -> set[int]:
    """The versions to keep among the existing `numbers`.

    Kept are the `newest` ones, versions that an alias names or has named `since` (a version that an alias left after
    that time was named then), and the target of each alias's next rollback. `moves` are those that took place; moves
    before an alias was removed do not count. `bases` maps each version that a learner has made to the version that it
    began with: that one is kept as long as any of them, and where one of them has replaced another, the older one is
    not kept for having been named recently.
    """
    keep = set(sorted(numbers)[-newest:]) | {alias.version for alias in aliases.values()}
    by_alias: dict[str, list[Move]] = {}
    named: dict[str, set[int]] = {}  # since then, by each alias
    for move in moves:
        if move.to_version is None:
            by_alias[move.alias], named[move.alias] = [], set()
            continue
        by_alias.setdefault(move.alias, []).append(move)
        base = bases.get(move.to_version)
        followed = base is not None and bases.get(move.from_version or 0) == base
        if datetime.fromisoformat(move.time) >= since and not followed:
            named.setdefault(move.alias, set()).update({move.to_version, move.from_version or move.to_version})
    keep = keep.union(*named.values())
    for own in by_alias.values():
        target = rollback_target(own, numbers.__contains__)
        if target is not None:
            keep.add(target)
    keep |= {bases[version] for version in keep if version in bases}
    return keep & set(numbers)
