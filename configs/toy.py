"""MoA on the toy world: a pretrained prior small enough for a laptop.

Command:  python -m moa_jax.toyworld runs/toy_data
          python train.py configs/toy.py
Hardware: 2 CPU cores.
Time:     not yet measured as a whole.
Result:   not yet measured: the study of `python -m moa_jax.evaluation toy` is still to be run.
"""

from moa_jax.config import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    """Train for 1,500 steps of 32 pictures."""
    return Config(
        model=ModelConfig(base="moa_jax/toyworld/weights/base"),
        method=MethodConfig(max_subjects=2),
        # Not augmented: here a person is its colours, and FastComposer's jitter changes them.
        data=DataConfig(path="runs/toy_data", resolution=64, augment=False, workers=2),
        optimizer=OptimizerConfig(
            learning_rate=5e-4, warmup_steps=50, schedule="cosine", ema_decay=0.99
        ),
        train=TrainConfig(
            steps=1_500,
            batch_size=32,
            output="runs/toy",
            log_every=20,
            sample_every=250,
            sample_steps=20,
            checkpoint_every=100,
            keep_checkpoints=2,
        ),
    )
