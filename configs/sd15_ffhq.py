"""The full run: Stable Diffusion 1.5 on FFHQ as FastComposer prepared it and trained on it.

Command:  python train.py configs/sd15_ffhq.py data.path=FFHQ
          FFHQ holds FastComposer's layout: <id[:5]>/<id>.{jpg,json,npy} and image_ids_train.txt.
Hardware: 8 accelerators; the batch of 128 is 16 pictures on each.
          To need less memory: mesh.preset=fsdp, model.remat=true, optimizer.accumulation=2 (or 4,
          8); --plan v5e:2x4 says what that needs. sd15_ffhq_v5e_16.py, sd15_ffhq_v6e_8.py and
          sd15_ffhq_gpu_8.py have the values for some machines, with their plans.
Plan:     on 8 v5e with mesh.preset=fsdp model.remat=true a chip needs 8.1 of 15.75 GiB; a picture
          takes 4.72 TFLOP and 9.9 GB of memory traffic, so at most 42 pictures/s on each chip
          (--plan v5e:2x4); not measured on hardware.
Time:     150,000 steps; not yet measured.
Result:   identity and prompt scores of FastComposer's protocol; not yet measured.
"""

from moa_jax.config import Config, DataConfig, MeshConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    """Leave at its default everything that the paper and FastComposer fix."""
    return Config(
        model=ModelConfig(
            base="stable-diffusion-v1-5/stable-diffusion-v1-5",
            image_encoder="openai/clip-vit-large-patch14",
        ),
        data=DataConfig(path="data/ffhq", layout="ffhq", split="train"),
        train=TrainConfig(steps=150_000, batch_size=128, output="runs/sd15_ffhq"),
        mesh=MeshConfig(),
    )
