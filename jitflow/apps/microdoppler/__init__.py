"""The microdoppler application: user-conditioned LightningDiT on latents of spectrograms."""

SUMMARY = "spectrograms of users: simulate, extract, train, sample, evaluate, run (all three stages)"
EXAMPLE = "jitflow microdoppler run --data_dir ./data_split --output_dir ./outputs --model LightningDiT-B/1"
