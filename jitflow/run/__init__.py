"""A training run: its recipe, its folder, the one place that trains."""
