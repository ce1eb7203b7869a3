"""From raw rows to prepared ones. Knows nothing of models' heads or trainers."""
