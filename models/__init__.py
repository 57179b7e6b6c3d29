"""Documented names of the models; the code is in ``jitflow``."""
