"""How far generated images are from real ones: pure functions of features, and what makes the features."""
