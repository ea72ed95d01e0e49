"""Fixtures of this folder."""

from foreign_networks import own  # noqa: F401
from inference import backend, cache, reference  # noqa: F401
