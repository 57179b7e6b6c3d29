"""Describe files, models and machines."""
