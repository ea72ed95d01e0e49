"""Fixtures of this folder."""

from learners import _same_arithmetic, clean, inverted, there_and_back, undisturbed, usual  # noqa: F401
