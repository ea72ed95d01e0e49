"""Learning from the labels that arrive: buffer, drift detection, strategies, gate."""
