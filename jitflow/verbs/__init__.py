"""The commands of `jitflow`: one file per verb."""
