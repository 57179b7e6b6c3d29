"""Architectures, one per file, and the registry that names them."""
