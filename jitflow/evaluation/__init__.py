"""Evaluation of generated images: feature extractors, and scores that are pure functions of features."""
