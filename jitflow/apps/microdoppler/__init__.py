"""The microdoppler application: user-conditioned LightningDiT on latents of spectrograms."""

_LATENTS, _BEST = "outputs/latent_features", "outputs/trained_models/checkpoints/best.ckpt"
_DRAWN = "outputs/generated_images"
SUMMARY = "spectrograms of users: simulate, spectrogram, extract, train, sample, add-user, evaluate, run, augment-study"
EXAMPLES = {
    "run": "jitflow microdoppler run --data_dir ./data_split --output_dir ./outputs --model LightningDiT-B/1",
    "simulate": "jitflow microdoppler simulate --output_dir ./data_split --num_users 5 --min_cadence_gap 0.1",
    "spectrogram": "jitflow microdoppler spectrogram ./raw --radar iwr1642 --output_dir ./data_split --overlap 0.5",
    "extract": f"jitflow microdoppler extract --data_dir ./data_split --output_path {_LATENTS}",
    "train": f"jitflow microdoppler train --latent_dir {_LATENTS} --output_dir outputs/trained_models",
    "sample": f"jitflow microdoppler sample --dit_checkpoint {_BEST} --output_dir {_DRAWN} --user_ids 1 2 3",
    "add-user": "jitflow microdoppler add-user --model ./outputs/trained_models --data_dir ./new_person",
    "evaluate": f"jitflow microdoppler evaluate --data_dir ./data_split --generated_dir {_DRAWN}",
    "augment-study": "jitflow microdoppler augment-study runs/study",
}
