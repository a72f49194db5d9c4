"""Stable Diffusion 1.5 on your own captioned pictures with a mask for each subject.

Command:  python train.py configs/sd15_imagefolder.py data.path=MY_PICTURES
          MY_PICTURES holds metadata.jsonl; python -m moa_jax.data check MY_PICTURES lists all
          faults in it before anything is loaded.
Hardware: meant for one accelerator, a batch of 16 in 4 parts; memory not yet measured. To need
          less: model.remat=true, optimizer.accumulation=8 (or 16).
Time:     20,000 steps; not yet measured.
Result:   not yet measured. FastComposer trains on FFHQ's 70,000 pictures, because the prompt has to
          learn from many different subjects what a subject is.
"""

from moa_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    """Take a smaller batch than FastComposer's, a short warm-up and an average of the weights."""
    return Config(
        model=ModelConfig(
            base="stable-diffusion-v1-5/stable-diffusion-v1-5",
            image_encoder="openai/clip-vit-large-patch14",
        ),
        data=DataConfig(path="data/pictures", layout="imagefolder"),
        optimizer=OptimizerConfig(accumulation=4, warmup_steps=500, ema_decay=0.999),
        train=TrainConfig(steps=20_000, batch_size=16, output="runs/sd15_imagefolder"),
    )
