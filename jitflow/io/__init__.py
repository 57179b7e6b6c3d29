"""Safe files, arrays, progress and parallel maps."""
