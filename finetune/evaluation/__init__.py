"""Measuring what was trained: the metrics, and the loops that produce what they score."""
