#!/usr/bin/env bash
# Measure what one GPU does, within eight minutes: attention's kernels; U-Net, VAE and whole call
# against diffusers, eager and torch.compile; MoA's overhead; a training step against the measured
# matrix peak; memory.
#
#   benchmarks/gpu.sh OUT
#
# Installs nothing and reaches for nothing. Needs Python with jax for CUDA and the packages that
# notes.txt would name as missing; training needs grain too. Without torch and diffusers there is no
# peer, and the rest is measured. Leaves in OUT a table (table.md), each part's JSON and notes.txt,
# written anew after each part. A part that takes longer than its share ends with the rows it has.
# Run once on an H100, see docs/performance.md; tests/benchmarks/test_gpu.py runs it small on a CPU.
# Variables, with their defaults:
#   PYTHON=python3
#   SIZE=sd15 PIXELS=512 BATCHES="8 32"   SIZE as for benchmarks.sampling; batch 1 comes first
#   STEPS=20 REPEATS=10 MATRIX=8192 TRAIN=16
#   SECONDS_IN_ALL=470
set -euo pipefail

OUT=$(realpath -m "${1:?"a folder for the results"}")
PYTHON=${PYTHON:-python3}
SIZE=${SIZE:-sd15} PIXELS=${PIXELS:-512} BATCHES=${BATCHES:-8 32}
STEPS=${STEPS:-20} REPEATS=${REPEATS:-10} MATRIX=${MATRIX:-8192} TRAIN=${TRAIN:-16}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-470}
read -ra batches <<<"$BATCHES"
cd "$(dirname "$0")/.."
mkdir -p "$OUT"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
# jax and torch share the memory, so neither may take all of it.
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
: >"$OUT/notes.txt"

note() { echo "[$SECONDS s] $*" | tee -a "$OUT/notes.txt"; }

# why FILE: the error in a command's output, which need not be its last line.
why() { grep -E '^[[:alnum:]_.]*(Error|Exception)' "$1" | tail -n 1 | grep . || tail -n 1 "$1"; }

# part NAME SECONDS MODULE [argument ...]: run a benchmark, for no longer than so many seconds.
part() {
    local name=$1 most=$2 module=$3 left=$((SECONDS_IN_ALL - SECONDS)) code=0
    shift 3
    most=$((most < left ? most : left))
    if [ "$most" -lt 1 ]; then
        note "$name left out: no time is left"
        return
    fi
    note "$name begins, for at most $most s"
    timeout -k 5 "$most" "$PYTHON" -m "benchmarks.$module" "$@" --out "$WORK/$name" \
        --repeats "$REPEATS" --seconds 10 >"$WORK/$name.txt" 2>&1 || code=$?
    case $code in
    0) note "$name is done" ;;
    124 | 137) note "$name ran out of its time: the rows that were finished count" ;;
    *) note "$name failed: $(why "$WORK/$name.txt")" ;;
    esac
    cp "$WORK/$name.txt" "$OUT/$name.txt"
    [ ! -f "$WORK/$name/$module.json" ] || cp "$WORK/$name/$module.json" "$OUT/$name.json"
    cat "$WORK"/*/*.md >"$OUT/table.md" 2>/dev/null || true
}

note "$("$PYTHON" - <<'END'
import importlib.util as found

def absent(names):
    return ", ".join(name for name in names.split() if found.find_spec(name) is None) or "nothing"

print("missing of what all parts need:", absent("jax flax optax transformers safetensors jaxtyping "
      "huggingface_hub scipy rich PIL matplotlib"))
print("missing of what training needs too:", absent("grain array_record"))
print("missing of the peers:", absent("torch diffusers"))
END
)"
note "device: $("$PYTHON" -c 'import jax; print(jax.devices()[0].device_kind)' 2>&1 | tail -n 1)"

MODEL=$SIZE
if [ "$SIZE" = sd15 ] || [ "$SIZE" = tiny ]; then
    note "random weights are written"
    MODEL=$WORK/model
    timeout 90 "$PYTHON" -m benchmarks.models "$SIZE" "$MODEL" >"$WORK/models.txt" 2>&1 ||
        { note "writing them failed: $(tail -n 1 "$WORK/models.txt")"; exit 1; }
fi
of=(--size "$MODEL" --pixels "$PIXELS")
part attention 45 attention --pixels "$PIXELS"
part gradients 45 attention --pixels "$PIXELS" --backward
part one 200 sampling "${of[@]}" --batch 1 --steps "$STEPS" --jobs unet call vae
part training 100 training "${of[@]}" --batch "$TRAIN" --matrix "$MATRIX" --remat
part batches "$SECONDS_IN_ALL" sampling "${of[@]}" --batch "${batches[@]}" --steps "$STEPS" \
    --jobs unet call
note "all is done"
