"""A recipe end to end with everything shrunk: the same architecture, a few rows, two steps."""
