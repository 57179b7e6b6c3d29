"""Images of classes in pixel space: JiT."""
