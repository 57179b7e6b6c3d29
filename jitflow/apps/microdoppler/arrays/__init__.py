"""Spectrograms as arrays of decibels: what a data set states about them, and their scale to the model's images.

The modules: ``description`` (``spectrograms.yaml``), ``axes`` (time, velocity and carrier), ``colour_maps`` (levels of
a coloured picture), ``sample`` (one file as an array), ``scale`` (decibels to levels and back), ``measure`` (the range
of a data set).
"""
