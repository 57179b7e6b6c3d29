"""Frozen networks that turn images into features, for judges and for losses; weights come from local files only."""
