"""Offline training: a run, its distribution over processes, its figures."""
