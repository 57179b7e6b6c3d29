"""Checkpoint files: one module per format, checkpoint folders, loading."""
