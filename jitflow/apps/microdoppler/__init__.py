"""Micro-Doppler spectrograms of users in a latent space: LightningDiT."""
