#!/usr/bin/env bash
# Train, draw and read the rows of the toy world's tables on one GPU, many of them at once.
#
#   scripts/rows_on_gpu.sh OUT [argument of `python -m moa_jax.evaluation toy` ...]
#   scripts/rows_on_gpu.sh runs/rows --table lab --rows lora-3,film
#
# Every training of the table that is not on record in RECORDS is done: the first of each row, then
# the second, then the third. Float32 is computed as a CPU does, so that rows of both may stand in
# one table. Records go to RECORDS/rows as they come, and at the end, or after SECONDS_IN_ALL, into
# OUT/records.tar.gz; weights whose pictures were not drawn yet go to OUT/weights-NUMBER.tar.gz. Needs
# Python with the project's packages and jax for CUDA. Tried once, on an H100 with 16 cores: with 17
# trainings at once none had ended after five minutes, so most of that went into compiling.
# Variables, with their defaults:
#   PYTHON=python3 JOBS=4
#   RECORDS=docs/evaluation RUNS=runs/study   what is there already is not done again
#   SECONDS_IN_ALL=3000
set -euo pipefail

OUT=$(realpath -m "${1:?"a folder for what is measured"}")
shift
PYTHON=${PYTHON:-python3} JOBS=${JOBS:-4} RECORDS=${RECORDS:-docs/evaluation} RUNS=${RUNS:-runs/study}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-3000}
cd "$(dirname "$0")/.."
mkdir -p "$OUT" "$RUNS" "$RECORDS/rows"
# Many processes share one GPU. Their products are too small for tuning to pay.
export XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_DEFAULT_MATMUL_PRECISION=highest
export XLA_FLAGS="--xla_gpu_autotune_level=0 ${XLA_FLAGS:-}"
export PYTHONUNBUFFERED=1 COLUMNS=200 PYTHONPATH="$PWD:${PYTHONPATH:-}"
# With NVIDIA's multi-process service, small kernels of several processes run side by side.
if command -v nvidia-cuda-mps-control >"$OUT/notes.txt"; then
    nvidia-cuda-mps-control -d || echo "the multi-process service does not start"
fi

pack() {
    tar -czf "$OUT/records.tar.gz" -C "$RECORDS" rows
    find "$RUNS" -name '*.txt' -o -name metrics.jsonl | tar -czf "$OUT/logs.tar.gz" -T -
    local number=0 folder name
    for folder in "$RUNS"/*/; do
        name=$(basename "$folder")
        if [ -f "$folder/moa.safetensors" ] && [ ! -f "$RECORDS/rows/$name.json" ]; then
            tar -czf "$OUT/weights-$((number++)).tar.gz" -C "$RUNS" \
                "$name/moa.safetensors" "$name/moa.json"
        fi
    done
}
trap pack EXIT

timeout -k 5 "$SECONDS_IN_ALL" "$PYTHON" -m moa_jax.evaluation toy \
    --runs "$RUNS" --out "$RECORDS" --jobs "$JOBS" \
    data.resident=true train.sample_every=1000000 train.checkpoint_every=1000000 "$@" ||
    echo "ended with exit code $? after $SECONDS s: what is finished counts"
