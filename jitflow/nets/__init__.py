"""Network architectures, one per file, and the registry of named networks."""
