"""The run folder and what leaves it: verification, card, publishing, prediction."""
