"""Models for other people: safetensors with a card, torch.export, diffusers, hubs."""
