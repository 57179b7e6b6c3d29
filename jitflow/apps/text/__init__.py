"""Text as colour: images whose colours are tokens."""
