"""The full run on 8 TPU v6e (Trillium): 16 pictures on each.

Command:  python train.py configs/sd15_ffhq_v6e_8.py data.path=gs://BUCKET/ffhq
Hardware: v6e:2x4, one or two hosts: launch/tpu_vm.sh, or launch/gke_jobset.yaml.
Plan:     a chip needs 18.0 of 31.24 GiB; a picture takes 4.24 TFLOP and 9.2 GB of memory traffic,
          so at most 178 pictures/s on each chip, and the run at least 3.7 hours (--plan v6e:2x4);
          not measured on hardware.
Time:     150,000 steps; not yet measured.
Result:   as configs/sd15_ffhq.py; not yet measured.
"""

from pathlib import Path

from moa_jax.config import Config, load_config, override


def get_config() -> Config:
    """Split weights over all chips, and keep all that the backward pass needs."""
    run = load_config(Path(__file__).with_name("sd15_ffhq.py"))
    return override(run, ["mesh.preset=fsdp", "train.output=runs/sd15_ffhq_v6e_8"])
