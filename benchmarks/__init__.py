"""Measurements of cifarctl beside the tutorial that it grew out of; see README.md."""
