"""A module that no reader may import: mutated files name it."""

raise AssertionError("the code of a file's choice was imported")
