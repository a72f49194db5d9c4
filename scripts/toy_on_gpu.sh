#!/usr/bin/env bash
# Train the toy world on one GPU: minutes there are a day on two CPU cores.
#
#   scripts/toy_on_gpu.sh OUT
#
# Scenes; autoencoder, towers and readers; the prior; MoA and the tuned single branch. Needs Python
# with the project's packages and jax for CUDA; reaches for nothing else. Each part leaves an archive
# of weights and logs in OUT as soon as it is done. Stopped by SIGTERM, it goes on from there when it
# is started again on the same machine. On an H100 the networks below the prior were tried (at best the
# autoencoder saw 3,400 pictures a second, the towers 1,700 groups of four, the readers 14,700
# pictures; compiling took 21 to 77 seconds), and the whole on a CPU. Variables, with their defaults:
#   PYTHON=python3 WORK=/tmp/toy_on_gpu
#   SCENES=65536 PICTURES=24576   rendered for the base model and for MoA
#   PARTS=100                     per cent of the steps; 1 tries everything on a CPU, together with
#                                 SCENES=256 PICTURES=32 BATCH=4
set -euo pipefail

OUT=$(realpath -m "${1:?"a folder for what is trained"}")
PYTHON=${PYTHON:-python3} WORK=${WORK:-/tmp/toy_on_gpu}
SCENES=${SCENES:-65536} PICTURES=${PICTURES:-24576} PARTS=${PARTS:-100} BATCH=${BATCH:-}
WORLD=$WORK/world LOGS=$WORK/logs
cd "$(dirname "$0")/.."
mkdir -p "$OUT" "$LOGS"
# Trainings run side by side, so none may take the whole memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1 COLUMNS=200
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

note() { echo "[$SECONDS s] $*" | tee -a "$LOGS/notes.txt"; }

log() { # NAME COMMAND...: keep a command's output; its end is shown where it fails.
    local name=$1
    shift
    note "$name begins"
    "$@" >>"$LOGS/$name.txt" 2>&1 || { note "$name failed"; tail -n 15 "$LOGS/$name.txt"; return 1; }
    note "$name is done"
}

pack() { # NAME FOLDER FILE...: put what is there into an archive of OUT.
    local name=$1 folder=$2
    shift 2
    tar -C "$folder" -czf "$OUT/.$name" "$@"
    mv "$OUT/.$name" "$OUT/$name.tar.gz"
    tar -C "$WORK" -czf "$OUT/.logs" logs
    mv "$OUT/.logs" "$OUT/logs.tar.gz"
}

# stage NAME STEPS BATCH [override ...]: train one network of the base model.
stage() {
    local name=$1 steps=$(($2 * PARTS / 100)) batch=${BATCH:-$3}
    shift 3
    steps=$((steps > 4 ? steps : 4))
    log "$name" "$PYTHON" -m moa_jax.toyworld.pretraining "$WORLD" --stages "$name" \
        "$name.steps=$steps" "$name.batch_size=$batch" "$name.warmup_steps=$((steps / 20))" \
        "$name.log_every=$((steps / 20 + 1))" "$name.sample_every=$((steps / 4))" \
        "$name.checkpoint_every=$((steps / 2))" "$@"
}

pretrain() { # NAME STAGES [override ...]: run stages that train nothing.
    local name=$1 stages=$2
    shift 2
    log "$name" "$PYTHON" -m moa_jax.toyworld.pretraining "$WORLD" --stages "$stages" "$@"
}

# moa NAME STEPS [override ...]: train MoA, or something like it, on the encoded data.
moa() {
    local name=$1 steps=$(($2 * PARTS / 100))
    shift 2
    steps=$((steps > 4 ? steps : 4))
    [ -f "$WORK/$name/moa.safetensors" ] || log "$name" "$PYTHON" train.py configs/toy.py \
        model.base="$WORLD/model" data.path="$WORK/data" data.encoded="$WORK/encoded" \
        data.resident=true train.output="$WORK/$name" train.steps="$steps" \
        train.batch_size="${BATCH:-128}" train.log_every="$((steps / 20 + 1))" \
        train.sample_every="$((steps / 2))" train.checkpoint_every="$((steps / 2))" \
        optimizer.router_start="$((steps / 2))" optimizer.warmup_steps="$((steps / 50))" "$@"
    pack "$name" "$WORK/$name" moa.safetensors moa.json metrics.jsonl samples
}

# Rendering takes every core, and compiling beside it three times as long: first one, then the other.
pretrain scenes scenes scenes.count="$SCENES"
[ -f "$WORK/data/metadata.jsonl" ] ||
    log data "$PYTHON" -m moa_jax.toyworld "$WORK/data" --count "$PICTURES"

autoencoder() {
    stage vae 3200 64 vae.dtype=bfloat16 vae.crop_steps=0 vae.people_weight=3
    pack vae "$WORLD" vae/networks vae/samples
}
towers() {
    stage clip 1000 64 clip.dtype=bfloat16 clip.described=0.5
    stage looks 1500 64 looks.dtype=bfloat16
    pack towers "$WORLD" tokenizer clip/networks looks/networks
}
readers() {
    stage readers 5000 128
    pack readers "$WORLD" readers.safetensors
}
autoencoder & one=$!
towers & two=$!
wait $one
readers & three=$!
wait $two
pretrain latents latents
stage unet 6000 256 unet.dtype=bfloat16 unet.described=0.5
pretrain model model
pack prior "$WORLD" unet/networks unet/samples
wait $three
log encoding "$PYTHON" train.py configs/toy.py model.base="$WORLD/model" data.path="$WORK/data" \
    data.encoded="$WORK/encoded" --encode
moa moa 4000 & one=$!
moa single 4000 method.router=personalized method.router_loss_weight=0 & two=$!
wait $one
wait $two
note "all is done"
