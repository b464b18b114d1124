#!/usr/bin/env bash
# Train for SECONDS from the checkpoint in training/ffhq-1024/checkpoint, if there is one; results go to $OUT.
# More arguments go to train.py: gpu.sh 540 --phases pictures:0.3,tokens:0.7
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1; shift
export PYTHONPATH="$PWD/../..${PYTHONPATH:+:$PYTHONPATH}"
resume=()
if compgen -G "checkpoint/*.safetensors" >/dev/null; then resume=(--resume checkpoint); fi
exec python3 train.py --data data --out "${OUT:-out}" --seconds "$seconds" "${resume[@]}" "$@"
