"""Codecs between data (pixels, spectrograms, text) and the model space of the networks."""
