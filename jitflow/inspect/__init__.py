"""What a file, a model or a machine is."""
