"""Plan to trained model. Knows nothing of files of a user, the Hub or Hydra."""
