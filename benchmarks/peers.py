"""The other side of the benchmarks: diffusers and torch, on the same machine and weights.

torch and diffusers are asked for only here, and only when a benchmark names a peer: without them
the benchmarks measure our side alone.
"""

from collections.abc import Callable
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.ours import GUIDANCE, PROMPT, Drawing

Call = Callable[[], Any]


def missing() -> str | None:
    """Say in words why there is no peer; None if there is one."""
    absent = [name for name in ("torch", "diffusers") if find_spec(name) is None]
    return f"no peer: {' and '.join(absent)} cannot be imported" if absent else None


class Diffusers:
    """diffusers' Stable Diffusion pipeline of a folder."""

    def __init__(self, folder: Path, dtype: str, compiled: bool) -> None:
        """Load it, on the GPU if torch has one.

        Args:
            dtype: of weights and computation, e.g. "bfloat16".
            compiled: also run the U-Net and the VAE through `torch.compile`.
        """
        import torch
        from diffusers import StableDiffusionPipeline

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = getattr(torch, dtype)
        pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=self._dtype)
        pipe.set_progress_bar_config(disable=True)
        self._pipes = {"diffusers": pipe.to(self._device)}
        if self._device == "cuda":  # as diffusers' pages on speed advise
            pipe.unet.to(memory_format=torch.channels_last)
            pipe.vae.to(memory_format=torch.channels_last)
        if compiled:
            # A shallow copy: same weights, and the plain pipeline's decoder stays as it is.
            vae = copy(pipe.vae)
            vae.decode = torch.compile(pipe.vae.decode)
            parts = {**pipe.components, "unet": torch.compile(pipe.unet), "vae": vae}
            other = StableDiffusionPipeline(**parts, requires_safety_checker=False)
            other.set_progress_bar_config(disable=True)
            self._pipes["torch.compile"] = other

    def unet(self, drawing: Drawing) -> dict[str, Call]:
        """Give the calls of one step under guidance."""
        some = next(iter(self._pipes.values()))
        side, rows = drawing.pixels // some.vae_scale_factor, 2 * drawing.batch
        latents = self._normal(rows, some.unet.config.in_channels, side, side)
        width = some.unet.config.cross_attention_dim
        text = self._normal(rows, some.tokenizer.model_max_length, width)
        return {
            name: self._waiting(lambda pipe=pipe: pipe.unet(latents, 500, text).sample)
            for name, pipe in self._pipes.items()
        }

    def vae(self, drawing: Drawing) -> dict[str, Call]:
        """Give the calls that decode latents into 8-bit pixels."""
        some = next(iter(self._pipes.values()))
        side = drawing.pixels // some.vae_scale_factor
        latents = self._normal(drawing.batch, some.vae.config.latent_channels, side, side)

        def decode(pipe: Any) -> Any:
            pixels = pipe.vae.decode(latents).sample
            return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(self._torch.uint8)

        return {
            name: self._waiting(lambda pipe=pipe: decode(pipe))
            for name, pipe in self._pipes.items()
        }

    def call(self, drawing: Drawing) -> dict[str, Call]:
        """Give the calls from text to pictures."""

        def draw(pipe: Any) -> Any:
            return pipe(
                PROMPT,
                num_images_per_prompt=drawing.batch,
                height=drawing.pixels,
                width=drawing.pixels,
                num_inference_steps=drawing.steps,
                guidance_scale=GUIDANCE,
            )

        return {
            name: self._waiting(lambda pipe=pipe: draw(pipe)) for name, pipe in self._pipes.items()
        }

    def memory(self, call: Call) -> int | None:
        """Give the most bytes that torch held on the GPU in a call; None on a CPU."""
        if self._device == "cpu":
            return None
        self._torch.cuda.reset_peak_memory_stats()
        call()
        return self._torch.cuda.max_memory_allocated()

    def _normal(self, *shape: int) -> Any:
        return self._torch.randn(*shape, device=self._device, dtype=self._dtype)

    def _waiting(self, call: Call) -> Call:
        """Make a call that keeps no gradients and waits for the GPU."""

        def run() -> None:
            with self._torch.inference_mode():
                call()
            if self._device == "cuda":
                self._torch.cuda.synchronize()

        return run
