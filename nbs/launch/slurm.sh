#!/bin/bash
#SBATCH --job-name=detr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1        # one launcher a machine; it starts a process for each GPU
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue                  # a job that is put aside starts again, and goes on from its checkpoint
#SBATCH --open-mode=append
set -euo pipefail
out=${OUT:?a folder that all machines see}
gpus=8
export MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 bash -c "accelerate launch \
    --multi_gpu --num_machines $SLURM_NNODES --num_processes $((SLURM_NNODES * gpus)) --machine_rank \$SLURM_PROCID \
    --main_process_ip $MASTER --main_process_port 29500 --mixed_precision no --dynamo_backend no \
    -m detr_lit.train --data ${DATA:-toy} --recipe paper --steps ${STEPS:-554470} --batch-size 64 \
    --workers 6 --out $out --resume"
