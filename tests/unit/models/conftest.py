"""Fixtures of this folder."""

from foreign_networks import own  # noqa: F401
