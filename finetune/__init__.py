"""A fine-tuning compiler: a ten-line YAML recipe in, a proven model out."""

__version__ = "0.1.0"
