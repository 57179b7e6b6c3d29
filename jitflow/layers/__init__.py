"""Layers from which the architectures in ``nets/`` are built."""
