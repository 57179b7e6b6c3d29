"""Applications: one folder each, listed in jitflow/applications.py."""
