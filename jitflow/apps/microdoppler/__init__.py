"""Micro-Doppler spectrograms of users in a latent space: LightningDiT."""

SUMMARY = "spectrograms of users: simulate, extract, train, sample, evaluate, run (all three stages)"
EXAMPLE = "jitflow microdoppler run --data_dir ./data_split --output_dir ./outputs --model LightningDiT-B/1"
