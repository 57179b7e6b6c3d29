"""Post-training of trained models: turn a sampler of many steps into a generator of one."""
