"""The text application: text as images whose colours are tokens."""

_TRAINED = "runs/demo/text/training/checkpoint-last.pth"
SUMMARY = "text as colour: train, sample, evaluate"
EXAMPLES = {
    "sample": f'jitflow text sample {_TRAINED} --prompt "The import statement"',
    "train": "jitflow text train --data_path ./texts --epochs 100",
    "evaluate": f"jitflow text evaluate {_TRAINED}",
}
