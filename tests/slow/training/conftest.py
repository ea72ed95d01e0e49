"""Fixtures of this folder."""

from training_runs import images, narrow, uninterrupted  # noqa: F401
