"""Fixtures of this folder."""

from inference import speedometer  # noqa: F401
