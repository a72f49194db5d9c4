"""The full run on 16 TPU v5e: 8 pictures on each.

Command:  python train.py configs/sd15_ffhq_v5e_16.py data.path=gs://BUCKET/ffhq
Hardware: v5e:4x4, four hosts: launch/tpu_vm.sh, or launch/gke_jobset.yaml.
Plan:     a chip needs 9.4 of 15.75 GiB; a picture takes 4.24 TFLOP and 7.0 GB of memory traffic,
          so at most 46 pictures/s on each chip, and the run at least 7.2 hours (--plan v5e:4x4);
          not measured on hardware.
Time:     150,000 steps; not yet measured.
Result:   as configs/sd15_ffhq.py; not yet measured.
"""

from pathlib import Path

from moa_jax.config import Config, load_config, override


def get_config() -> Config:
    """Split weights over all chips, and keep all that the backward pass needs."""
    run = load_config(Path(__file__).with_name("sd15_ffhq.py"))
    return override(run, ["mesh.preset=fsdp", "train.output=runs/sd15_ffhq_v5e_16"])
