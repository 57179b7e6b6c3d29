"""File, array, progress and multiprocessing helpers."""
