"""Algorithms of online learning: replay buffer, drift detection, strategies, gate."""
