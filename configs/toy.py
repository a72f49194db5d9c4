"""MoA on the toy world: a pretrained prior small enough for a laptop.

Command:  python -m moa_jax.toyworld runs/toy_data
          python train.py configs/toy.py
Hardware: 2 CPU cores.
Time:     29 minutes, after one minute for the data and one for encoding it.
Result:   identity 51.7 % of the way to the renderer's, prompt 97.1 %, binding 84.6 % (means of
          three seeds; all of it in docs/evaluation/toy.md).
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
    """Train for 4,800 steps of 32 pictures."""
    return Config(
        model=ModelConfig(base="moa_jax/toyworld/weights/base"),
        # The personalized expert draws most of everything until it knows something; only then do
        # routers learn. Starting from a weight of 0.1, AdamW found no use for the photographs.
        method=MethodConfig(
            max_subjects=2,
            image_encoder_layers=0,
            initial_personalized_weight=0.8,
            router_loss_weight=0.1,
        ),
        # Not augmented: here a person is its colours, and FastComposer's jitter changes them.
        data=DataConfig(
            path="runs/toy_data",
            resolution=64,
            augment=False,
            encoded="runs/toy_encoded",
            workers=2,
        ),
        # In this time AdamW alone learns shirts and skin, and little else; hence Muon.
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            muon_learning_rate=0.01,
            warmup_steps=50,
            schedule="cosine",
            router_start=2_400,
            ema_decay=0.99,
        ),
        train=TrainConfig(
            steps=4_800,
            batch_size=32,
            output="runs/toy",
            log_every=50,
            sample_every=1_000,
            sample_steps=20,
            checkpoint_every=250,
            keep_checkpoints=2,
        ),
    )
