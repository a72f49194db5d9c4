"""What the options of a command stand for: loaded networks, and the settings to draw with.

It imports jax, so a command imports this when there is something to draw, not for `--help`.
"""

import argparse

from moa_jax.runtime import keep_programs
from moa_jax.sampling.credentials import Credentials, open_credentials
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.sampling.settings import Settings
from moa_jax.sampling.short_forms import read_lora_option, read_strength


def load_networks(arguments: argparse.Namespace) -> Pipeline:
    """Load the pipeline of the options, with its LoRAs and ControlNets.

    Raises:
        InputError: something is missing, damaged or unsupported.
    """
    keep_programs(not arguments.no_cache)
    pipe = Pipeline.from_pretrained(
        arguments.base,
        arguments.moa,
        arguments.dtype,
        variant=arguments.variant,
        image_encoder=arguments.image_encoder,
        attention=arguments.attention,
        controlnets=arguments.controlnet,
        allow_other_base=arguments.allow_other_base,
        tokenizer=arguments.tokenizer,
        prediction_type=arguments.prediction_type,
        quantization=arguments.quantization,
    )
    for lora in arguments.lora:
        pipe.add_lora(*read_lora_option(lora))
    return pipe


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Make `Settings` of the options.

    Raises:
        InputError: a value is out of range.
    """
    return Settings(
        num_inference_steps=arguments.steps,
        sampler=arguments.sampler,
        guidance_scale=arguments.guidance_scale,
        guidance_rescale=arguments.guidance_rescale,
        guidance_interval=tuple(arguments.guidance_interval),
        karras=arguments.karras,
        eta=arguments.eta,
        delay=arguments.delay,
        capacity=arguments.capacity,
        skip_below=arguments.skip_below,
        moa_strength=[read_strength(each) for each in arguments.moa_strength] or 1.0,
    )


def read_credentials(arguments: argparse.Namespace) -> Credentials | None:
    """Open what signs the pictures, as the options ask.

    Raises:
        InputError: as `open_credentials`.
    """
    key, certificate = arguments.credentials_key, arguments.credentials_cert
    return open_credentials(not arguments.no_credentials, key, certificate)
