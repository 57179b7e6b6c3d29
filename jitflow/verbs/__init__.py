"""The commands of `jitflow`: one verb a file."""
