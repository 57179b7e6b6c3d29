"""Building blocks of the networks, one per file; every architecture of nets/ is made of these."""
