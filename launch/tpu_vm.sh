#!/usr/bin/env bash
# Train on every worker of a Cloud TPU VM slice, and start again whenever it is preempted.
#
#   launch/tpu_vm.sh NAME ZONE [train.py's arguments]
#   launch/tpu_vm.sh my-v5e-16 us-west4-a configs/sd15_ffhq.py data.path=/data/ffhq \
#       train.output=gs://my-bucket/runs/ffhq mesh.preset=fsdp
#
# The slice must exist. REPOSITORY (default: this checkout's origin) is cloned on the workers at the
# commit of this checkout, which must be pushed. All workers must see train.output and data.path: a
# bucket, Filestore, or gcsfuse. DRY_RUN=1 prints the commands instead.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 3 ]; then
    sed -n '2,10p' "$0" | sed 's/^# \{0,1\}//' >&2
    exit 2
fi
name=$1 zone=$2
shift 2

# train.py was preempted (143: before its first step), or another host is gone (134: jax noticed
# it first).
again='75|134|143'
commit=$(git rev-parse HEAD)
repository=${REPOSITORY:-$(git remote get-url origin 2>/dev/null || true)}
if [ -z "$repository" ]; then
    echo "error: this checkout has no origin: set REPOSITORY to what the workers can clone" >&2
    exit 2
fi

on_all() {
    local command=(
        gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
    )
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "${command[@]}"
        echo
    else
        "${command[@]}"
    fi
}

on_all "set -e
    [ -d moa_jax/.git ] || git clone $(printf %q "$repository") moa_jax
    cd moa_jax
    git fetch --quiet
    git checkout --quiet $commit
    [ -d .venv ] || python3 -m venv .venv
    .venv/bin/pip install --quiet --editable '.[tpu]'"

# Each worker starts again by itself: train.py ends on all of them when it ends so on one.
arguments=$(printf '%q ' "$@")
on_all "cd moa_jax
    while true; do
        code=0
        .venv/bin/python train.py $arguments || code=\$?
        case \$code in $again) ;; *) exit \$code ;; esac
        echo 'preempted: starting again in 30 s' >&2
        sleep 30
    done"
