"""Methods beside the main loss, one file each: loss terms, guidance, predictions."""
