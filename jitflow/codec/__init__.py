"""Between what people have (pixels, spectrograms, text) and what networks see (the model space)."""
