"""The images application: class-conditional JiT in pixel space."""
