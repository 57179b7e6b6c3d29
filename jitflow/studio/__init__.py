"""Studio: a local web page to sample from checkpoints."""
