"""Texts that a parser of YAML or of a shell would take for something else."""

ODD = [
    *("1e3", "007", "true", "no", "~x", "[1,2]", "{a: 1}", "a: b", "0x10", "1_000", "'quoted'", '"double"', "#c", "@f"),
    *("&a", "*a", "!x", "2024-01-01", ".5", "None", "%20", "a,b", " lead", "- x", "", "NULL", "Null"),
]
