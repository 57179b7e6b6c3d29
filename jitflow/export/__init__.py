"""Export models: safetensors with a model card, torch.export programs, diffusers pipelines, model hubs."""
