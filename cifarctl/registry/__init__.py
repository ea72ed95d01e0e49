"""The model registry: a folder of immutable versions, aliases that point at them, and the aliases' history.

Nothing here imports torch; ``cifarctl.registry.loading`` and ``cifarctl.registry.checkpoint`` do.
"""

from cifarctl.registry.aliases import Alias
from cifarctl.registry.history import Move
from cifarctl.registry.manifest import Canary, Description, Draft, Manifest, Normalisation, SplitRecord
from cifarctl.registry.pruning import Removed
from cifarctl.registry.store import Registry, utc_now

__all__ = [
    "Alias",
    "Canary",
    "Description",
    "Draft",
    "Manifest",
    "Move",
    "Normalisation",
    "Registry",
    "Removed",
    "SplitRecord",
    "utc_now",
]
