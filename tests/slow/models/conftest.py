"""Fixtures of this folder."""

from own_networks import own  # noqa: F401
