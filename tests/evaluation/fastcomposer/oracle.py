"""FastComposer in plain torch: its networks, how they meet, its loop, and its state dict.

Written from the released code's definitions (mit-han-lab/fastcomposer), not from ours. `Fault` puts
one mistake into it, to see that a comparison notices.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tests.backbone.parity import randomize

# The mistakes that somebody who reads the code could make; "" is none.
FAULTS = (
    "",
    "no word added after mlp1",
    "no residual in mlp2",
    "no norm in mlp1",
    "no last norm",
    "relu",
    "tanh gelu",
    "picture before word",
    "features of unit length",
    "features without projection's norm",
    "pixels not normalised",
    "subjects before the text encoder's last norm",
    "subjects swapped",
)


def postfuse(torch, width):
    """The module `postfuse_module`, with the released names."""

    def mlp(inputs):
        return torch.nn.ModuleDict(
            {
                "layernorm": torch.nn.LayerNorm(inputs),
                "fc1": torch.nn.Linear(inputs, width),
                "fc2": torch.nn.Linear(width, width),
            }
        )

    parts = {"mlp1": mlp(2 * width), "mlp2": mlp(width), "layer_norm": torch.nn.LayerNorm(width)}
    return torch.nn.ModuleDict(parts)


@dataclass
class FastComposer:
    """The five networks."""

    torch: Any
    unet: Any
    vae: Any
    text_encoder: Any
    image_encoder: Any
    fusion: Any
    fault: str = ""

    @classmethod
    def made(cls, folder):
        """Networks of a diffusers folder's architecture, with other weights."""
        import diffusers
        import torch
        import transformers

        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
        kind = transformers.CLIPVisionModelWithProjection
        vision = kind.from_pretrained(folder / "image_encoder")
        draw = partial(randomize, random=torch.Generator().manual_seed(5))
        width = pipeline.text_encoder.config.hidden_size
        vae = randomize(pipeline.vae, torch.Generator().manual_seed(6), spread=0.2)
        return cls(
            torch,
            unet=draw(pipeline.unet, spread=0.2),
            vae=vae,
            text_encoder=draw(pipeline.text_encoder),
            image_encoder=draw(vision),
            fusion=draw(postfuse(torch, width)),
        )

    def state(self):
        """The state dict as it was released: old names in the VAE, and buffers of positions."""
        olds = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

        def old(name):
            for new, replaced in olds.items():
                name = name.replace(f"attentions.0.{new}.", f"attentions.0.{replaced}.")
            return name

        # The text encoder of FastComposer has CLIP's text model's parts as its own.
        own = {
            key.removeprefix("text_model."): v for key, v in self.text_encoder.state_dict().items()
        }
        positions = self.torch.arange(77)[None]
        own["embeddings.position_ids"] = positions
        vision = dict(self.image_encoder.state_dict())
        vision["vision_model.embeddings.position_ids"] = positions[:, :17]
        networks = {
            "text_encoder": own,
            "image_encoder": vision,
            "vae": {old(key): value for key, value in self.vae.state_dict().items()},
            "unet": self.unet.state_dict(),
            "postfuse_module": self.fusion.state_dict(),
        }
        return {f"{n}.{k}": value for n, each in networks.items() for k, value in each.items()}

    def features(self, pictures):
        """Embed pictures, uint8 "K H W 3" at the tower's size."""
        torch = self.torch
        pixels = torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        if self.fault != "pixels not normalised":
            mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
            deviation = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
            pixels = (pixels - mean) / deviation
        tower = self.image_encoder.vision_model(pixels)
        pooled = tower.pooler_output
        if self.fault == "features without projection's norm":
            pooled = tower.last_hidden_state[:, 0]
        embedded = self.image_encoder.visual_projection(pooled)
        if self.fault == "features of unit length":
            embedded = embedded / embedded.norm(dim=-1, keepdim=True)
        return embedded

    def mlp(self, part, hidden, norm=True):
        functional = self.torch.nn.functional
        act = {"relu": functional.relu, "tanh gelu": partial(functional.gelu, approximate="tanh")}
        hidden = part["layernorm"](hidden) if norm else hidden
        return part["fc2"](act.get(self.fault, functional.gelu)(part["fc1"](hidden)))

    def fuse(self, words, pictures):
        """Fuse each word's embedding, "K D", with its picture's."""
        pair = [words, pictures][:: -1 if self.fault == "picture before word" else 1]
        both = self.torch.cat(pair, dim=-1)
        fused = self.mlp(self.fusion["mlp1"], both, norm=self.fault != "no norm in mlp1")
        if self.fault != "no word added after mlp1":
            fused = fused + words
        residual = 0 if self.fault == "no residual in mlp2" else fused
        fused = self.mlp(self.fusion["mlp2"], fused) + residual
        return fused if self.fault == "no last norm" else self.fusion["layer_norm"](fused)

    def embed(self, ids):
        return self.text_encoder(self.torch.tensor(ids).long()).last_hidden_state

    def prompt(self, ids, places, pictures):
        """The text, "1 S D", in which the words at some places are fused with their pictures."""
        text = self.embed(ids).clone()
        features = self.features(pictures)
        if self.fault == "subjects swapped":
            features = features.flip(0)
        if self.fault != "subjects before the text encoder's last norm":
            text[0, places] = self.fuse(text[0, places], features)
            return text
        tower = getattr(self.text_encoder, "text_model", self.text_encoder)  # older transformers
        last, seen = tower.final_layer_norm, []
        hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
        self.embed(ids)
        hook.remove()
        seen[0][0, places] = self.fuse(seen[0][0, places], features)
        return last(seen[0])

    def denoise(self, latents, timestep, context):
        return self.unet(latents, timestep, encoder_hidden_states=context).sample

    def draw(self, scheduler, noise, ids, negative, places, pictures, *, steps, scale, start_merge):
        """Its loop: the text alone up to and with row `start_merge`, None for never."""
        torch = self.torch
        nothing, text = self.embed(negative), self.embed(ids)
        augmented = self.prompt(ids, places, pictures)
        scheduler.set_timesteps(steps)
        latents = torch.tensor(noise).permute(0, 3, 1, 2) * scheduler.init_noise_sigma
        for row, timestep in enumerate(scheduler.timesteps):
            early = start_merge is not None and row <= start_merge
            context = torch.cat([nothing, text if early else augmented])
            inputs = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
            free, led = self.denoise(inputs, timestep, context).chunk(2)
            led = free + scale * (led - free)
            latents = scheduler.step(led, timestep, latents).prev_sample
        return latents.permute(0, 2, 3, 1).numpy()
