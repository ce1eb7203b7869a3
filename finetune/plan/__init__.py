"""Everything known before the first step: arithmetic, environment, checks, and the frozen file the ranks read."""
