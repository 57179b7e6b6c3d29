"""The text application: text as images whose colours are tokens."""

SUMMARY = "text as colour: train, sample, evaluate"
EXAMPLE = 'jitflow text sample runs/demo/text/training/checkpoint-last.pth --prompt "The import statement"'
