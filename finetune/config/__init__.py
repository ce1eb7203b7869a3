"""From YAML and overrides to a typed config. Torch-free: everyone imports it, it imports nobody."""
