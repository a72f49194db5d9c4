"""A run that any laptop finishes: does everything work here?

Command:  make demo  (writes .demo/model and .demo/data first), or afterwards
          python train.py configs/toy.py
Hardware: 2 CPU cores.
Time:     the whole demo 91 s, of which compiling the training step 30 s.
Result:   a denoising loss between 0.3 and 1.4, by the batch: the networks are small and random, and
          20 steps teach nothing. What it shows is that losses are logged, previews drawn,
          checkpoints kept and resumed; the pictures are colourful noise.
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
    """Train for 20 steps of 4 pictures."""
    return Config(
        model=ModelConfig(base=".demo/model"),
        method=MethodConfig(max_subjects=2, image_encoder_layers=1),
        data=DataConfig(path=".demo/data", resolution=64, workers=2),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5, schedule="cosine"),
        train=TrainConfig(
            steps=20,
            batch_size=4,
            output=".demo/run",
            log_every=5,
            sample_every=10,
            sample_steps=10,
            checkpoint_every=10,
            keep_checkpoints=2,
        ),
    )
