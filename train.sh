#!/usr/bin/env bash
# Train a model of text as colour on the text in DATA_PATH, or on the built-in corpus where there is none.
# The environment overrides every value below, and further options are passed on:
#   LR=1e-4 EPOCHS=20 ./train.sh --seed 1
#   ./train.sh --resume ./run/jit_v1/checkpoint_epoch_10.pth
set -euo pipefail

MODEL=${MODEL:-JiT-B/4}
IMG_SIZE=${IMG_SIZE:-64}
DATA_PATH=${DATA_PATH:-./data/train}
OUTPUT_DIR=${OUTPUT_DIR:-./run/jit_v1}
# A small rate, as documented for a training from nothing; train.py's own default is 1e-4.
LR=${LR:-5e-6}
EPOCHS=${EPOCHS:-100}
WARMUP_EPOCHS=${WARMUP_EPOCHS:-5}
BATCH_SIZE=${BATCH_SIZE:-32}
SAVE_INTERVAL=${SAVE_INTERVAL:-10}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3

exec "$python" "$here/train.py" \
    --model "$MODEL" \
    --img_size "$IMG_SIZE" \
    --data_path "$DATA_PATH" \
    --output_dir "$OUTPUT_DIR" \
    --lr "$LR" \
    --epochs "$EPOCHS" \
    --warmup_epochs "$WARMUP_EPOCHS" \
    --batch_size "$BATCH_SIZE" \
    --save_interval "$SAVE_INTERVAL" \
    ${TOKENIZER_PATH:+--tokenizer_path "$TOKENIZER_PATH"} \
    "$@"
