"""Fixtures of this folder."""

from lineages import _tiny  # noqa: F401
