"""Training: the one LightningModule, its optimiser and its checkpoints."""
