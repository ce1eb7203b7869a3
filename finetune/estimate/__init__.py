"""What a run costs before it runs: memory, disk, time. Knows skeletons and devices; knows no recipe and no task."""
