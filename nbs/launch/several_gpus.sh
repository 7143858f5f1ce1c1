#!/bin/bash
# All GPUs of this machine. Run it again as it stands after a crash: --resume goes on if there is a checkpoint.
set -euo pipefail
out=${1:?the folder of the run}
mkdir -p "$out"
accelerate launch --config_file "$(dirname "$0")/one_machine.yaml" --num_processes "${GPUS:-8}" \
    -m detr_lit.train --data "${DATA:-toy}" --recipe paper --steps "${STEPS:-554470}" --batch-size 64 \
    --eval-every "${EVERY:-18480}" --workers 6 --out "$out" --resume
