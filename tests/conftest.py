"""What every test runs under, and the tiny Stable Diffusion folders that diffusers itself writes.

The settings stand before any import of jax, torch or transformers, which read some of them once.
"""

import gc
import os
from functools import partial
from pathlib import Path

from tests.compiling import IN_A_HURRY, PROGRAMS, xla_flags

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=8)}"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(IN_A_HURRY)
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the parity tests are about float32 on a CPU
os.environ.setdefault("OMP_NUM_THREADS", "2")  # torch's threads
os.environ["HF_HUB_OFFLINE"] = "1"
# In the environment, so that commands started by tests keep their programs there too.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(PROGRAMS)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import moa_jax  # noqa: F401 (before jax: it settles what XLA prints)

# isort: split
import jax
import pytest

from moa_jax.backbone.tokenizer import write_tokenizer
from tests.backbone.parity import randomize
from tests.hub.stand_in import hub
from tests.personal import moa_folder, personal, plain
from tests.photographs import ffhq, imagefolder, photographs, save_rows, small, tokenizer

__all__ = ["ffhq", "imagefolder", "photographs", "save_rows", "small", "tokenizer"]  # fixtures
__all__ += ["hub", "moa_folder", "personal", "plain"]

gc.set_threshold(50_000, 20, 50)  # tracing makes many objects, of which few are garbage
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module")
def optimized():
    """Compile with XLA's optimizations: for programs that compute for longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", IN_A_HURRY)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A random Stable Diffusion 1.x folder: 64x64 pictures, with an image encoder. Read only."""
    folder = tmp_path_factory.mktemp("stable-diffusion-1")
    words = tmp_path_factory.mktemp("words")
    _pipeline(words, context=32, heads=4, activation="quick_gelu").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder_v2(tmp_path_factory) -> Path:
    """The same of the 2.x kind: linear projections, heads per level, v-prediction. Read only.

    Without an image encoder, and its tokenizer pads with "!" as that of Stable Diffusion 2.x does.
    """
    folder = tmp_path_factory.mktemp("stable-diffusion-2")
    pipeline = _pipeline(
        tmp_path_factory.mktemp("words"),
        context=48,
        heads=[2, 4],
        activation="gelu",
        prediction_type="v_prediction",
        use_linear_projection=True,
        upcast_attention=True,
    )
    pipeline.register_modules(image_encoder=None)
    pipeline.tokenizer.pad_token = "!"
    pipeline.save_pretrained(folder)
    return folder


def _pipeline(words, context, heads, activation, prediction_type="epsilon", **unet):
    torch = pytest.importorskip("torch")
    import diffusers
    import transformers

    write_tokenizer(words)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(words)
    random = torch.Generator().manual_seed(0)
    # The small spread keeps the pictures from being all black and white.
    draw = partial(randomize, random=random, spread=0.2)
    return diffusers.StableDiffusionPipeline(
        vae=draw(_vae(diffusers)),
        text_encoder=draw(_text_encoder(transformers, tokenizer, context, activation)),
        tokenizer=tokenizer,
        unet=draw(_unet(diffusers, context, heads, **unet)),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            timestep_spacing="leading",
            prediction_type=prediction_type,
        ),
        image_encoder=draw(_image_encoder(transformers)),
        feature_extractor=None,
        safety_checker=None,
        requires_safety_checker=False,
    )


def _unet(diffusers, context, heads, **options):
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=context,
        attention_head_dim=heads,  # diffusers' name for the number of heads in these models
        **options,
    )


def _vae(diffusers):
    return diffusers.AutoencoderKL(
        sample_size=64,
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def _text_encoder(transformers, tokenizer, width, activation):
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act=activation,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _image_encoder(transformers):
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            image_size=32,
            patch_size=8,
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=3,
            num_attention_heads=4,
        )
    )
