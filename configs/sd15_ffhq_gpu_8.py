"""The full run on 8 GPUs of 80 GB (H100 or A100): 16 pictures on each.

Command:  python train.py configs/sd15_ffhq_gpu_8.py data.path=FFHQ
          or sbatch --gpus-per-node=8 launch/slurm.sbatch configs/sd15_ffhq_gpu_8.py ...
Hardware: one host with 8 GPUs; weights are replicated, so only gradients are sent.
Plan:     without a GPU there is no compiler for GPUs. By arithmetic from the plan for v6e, with as
          many pictures a device: about 23 of 80 GB, 4.24 TFLOP a picture, so at most 233 pictures/s
          on each H100 (74 on an A100) by their peaks; not measured on hardware.
Time:     150,000 steps; not yet measured.
Result:   as configs/sd15_ffhq.py; not yet measured.
"""

from pathlib import Path

from moa_jax.config import Config, load_config, override


def get_config() -> Config:
    """Replicate the weights, and keep all that the backward pass needs."""
    run = load_config(Path(__file__).with_name("sd15_ffhq.py"))
    return override(run, ["mesh.preset=dp", "train.output=runs/sd15_ffhq_gpu_8"])
