"""Data modules: folders of images, and built-in sets that need no download."""
