"""The microdoppler application: user-conditioned LightningDiT on latents of spectrograms."""

_LATENTS, _BEST = "outputs/latent_features", "outputs/trained_models/checkpoints/best.ckpt"
_DRAWN = "outputs/generated_images"
SUMMARY = "spectrograms of users: simulate, extract, train, sample, evaluate, run (all stages), augment-study"
EXAMPLES = {
    "run": "jitflow microdoppler run --data_dir ./data_split --output_dir ./outputs --model LightningDiT-B/1",
    "simulate": "jitflow microdoppler simulate --output_dir ./data_split --num_users 5 --min_cadence_gap 0.1",
    "extract": f"jitflow microdoppler extract --data_dir ./data_split --output_path {_LATENTS}",
    "train": f"jitflow microdoppler train --latent_dir {_LATENTS} --output_dir outputs/trained_models",
    "sample": f"jitflow microdoppler sample --dit_checkpoint {_BEST} --output_dir {_DRAWN} --user_ids 1 2 3",
    "evaluate": f"jitflow microdoppler evaluate --data_dir ./data_split --generated_dir {_DRAWN}",
    "augment-study": "jitflow microdoppler augment-study runs/study",
}
