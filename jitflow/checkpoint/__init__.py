"""Checkpoint files: one module a format, folders of checkpoints, loading."""
