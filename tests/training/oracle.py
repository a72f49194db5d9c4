"""The training loss written a second time: in PyTorch, with diffusers' and transformers' networks.

What MoA adds (experts, routers, prompt, losses) is written out after the papers and FastComposer's
released code. Nothing of moa_jax is used but the names of its leaves. All of it is float64.
"""

import json

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.nn import functional
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

# The transformer blocks of the tiny U-Net, in the order of the computation.
BLOCKS = (
    "down_blocks.0.attentions.0",
    "mid_block.attentions.0",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
)
ROUTER_BLOCKS = BLOCKS[1:3]  # neither the first nor the last
OBJECT_BLOCKS = BLOCKS[1:2]  # none of the finest resolution
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
EPSILON = 1e-5  # FastComposer's, against empty masks


class Oracle:
    """The networks of a folder, and the weights that MoA adds.

    Attributes:
        weights: what learns, by its path in moa_jax's tree; a tensor of which asks for a gradient.
    """

    def __init__(self, folder, trained):
        """Read the folder; `trained` are arrays."""
        double = {"torch_dtype": torch.float64}
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", **double)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", **double)
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float64)
        self.vision = CLIPVisionModelWithProjection.from_pretrained(
            folder / "image_encoder", dtype=torch.float64
        )
        for network in (self.unet, self.vae, self.text, self.vision):
            network.eval().requires_grad_(False)
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        self.schedule = DDPMScheduler.from_config(config)
        self.weights = {
            path: torch.tensor(leaf, dtype=torch.float64, requires_grad=True)
            for path, leaf in trained.items()
        }
        self.unet.set_attn_processor(
            {
                name: Mixture(self, name.removesuffix(".processor"))
                for name in self.unet.attn_processors
            }
        )
        self.subjects = self.tokens = None  # of the batch, for the mixtures
        self.routing, self.attention = {}, {}  # what they did

    def loss(self, batch, draws, method, velocity=False):
        """Compute every term, and their weighted sum.

        Args:
            draws: (noise of the encoding, noise, timesteps, coins), arrays.
            method: has the weights of the terms.
            velocity: predict that instead of the noise.
        """
        encoding, noise, timesteps, masked = draws
        encoding, noise = (channels_first(array) for array in (encoding, noise))
        timesteps = torch.tensor(timesteps)
        latents = self.encode(batch["image"], encoding)
        text = self.text(torch.tensor(batch["input_ids"])).last_hidden_state
        self.tokens = torch.tensor(batch["subject_tokens"]).long()
        self.subjects = self.prompt(text, self.features(batch["subject_images"]), timesteps)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        prediction = self.unet(noisy, timesteps, text).sample
        target = self.schedule.get_velocity(latents, noise, timesteps) if velocity else noise
        masks = torch.tensor(batch["masks"], dtype=torch.float64)
        union = resized(masks.max(dim=1, keepdim=True).values, 8)
        terms = {
            "denoising": denoising_loss(prediction, target, union, torch.tensor(masked)),
            "router": self.router_loss(union[:, 0]),
            "object": self.object_loss(masks, torch.tensor(batch["subject_present"])),
        }
        total = terms["denoising"] + method.router_loss_weight * terms["router"]
        return {**terms, "total": total + method.object_loss_weight * terms["object"]}

    def encode(self, images, encoding):
        """Draw latents, at the scale that the U-Net sees."""
        pixels = channels_first(images) / 127.5 - 1
        moments = self.vae.encode(pixels).latent_dist
        return self.vae.config.scaling_factor * (moments.mean + moments.std * encoding)

    def features(self, images):
        """Encode each subject's picture, with the tower's trained layers in place."""
        pixels = channels_first(images.reshape(-1, *images.shape[2:])) / 255
        mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (PIXEL_MEAN, PIXEL_STD))
        layers = {
            path.removeprefix("image_encoder."): leaf
            for path, leaf in self.weights.items()
            if path.startswith("image_encoder.")
        }
        layers = dict(as_torch(path, leaf) for path, leaf in layers.items())
        encoded = torch.func.functional_call(self.vision, layers, (((pixels - mean) / std),))
        return encoded.image_embeds.reshape(*images.shape[:2], -1)

    def prompt(self, text, features, timesteps):
        """Give what stands for each subject's word in each block: "B blocks K D".

        FastComposer's fusion, then the word plus MLP(LN(m) + LN(PE(t, l))).
        """
        places = self.tokens.clamp(max=text.shape[1] - 1)
        word = torch.stack([row[place] for row, place in zip(text, places, strict=True)])
        fused = self.mlp("prompt.fusion.mlp1", torch.cat([word, features], dim=-1)) + word
        fused = self.mlp("prompt.fusion.mlp2", fused) + fused
        fused = self.norm("prompt.fusion.norm", fused)
        own = "prompt.conditioning"
        subject = self.norm(f"{own}.norm_subject", fused)
        blocks = []
        for block in range(len(BLOCKS)):
            place = self.linear(f"{own}.project", fourier_features(timesteps, block))
            place = self.norm(f"{own}.norm_place", place)
            blocks.append(word + self.mlp(f"{own}.mlp", subject + place[:, None]))
        return torch.stack(blocks, dim=1)

    def router_loss(self, union):
        """Punish what the background takes from the prior, by the layers' mean."""
        layers = [
            resized(self.routing[f"{block}.transformer_blocks.0.{layer}"][:, None], 8)[:, 0]
            for block in ROUTER_BLOCKS
            for layer in ("attn1", "attn2")
        ]
        prior = torch.stack(layers).mean(dim=0)
        return (((1 - union) * (1 - prior)) ** 2).mean()

    def object_loss(self, masks, present):
        """Balance attention on the background against attention on the subject."""
        layers = [self.attention[f"{block}.transformer_blocks.0.attn2"] for block in OBJECT_BLOCKS]
        losses = []
        for layer in layers:  # B N L S
            side = round(layer.shape[2] ** 0.5)
            small = resized(masks, side, antialias=True).flatten(2)
            for picture, row in enumerate(layer):
                losses += [
                    picture_loss(head, small[picture], self.tokens[picture], present[picture])
                    for head in row
                ]
        return torch.stack(losses).mean()

    def linear(self, name, hidden):
        """Apply a linear layer of ours; the experts' projections of q, k and v have no bias."""
        bias = self.weights.get(f"{name}.bias")
        return functional.linear(hidden, self.weights[f"{name}.kernel"].T, bias)

    def norm(self, name, hidden):
        """Apply a layer norm of ours."""
        scale, bias = (self.weights[f"{name}.{leaf}"] for leaf in ("scale", "bias"))
        return functional.layer_norm(hidden, hidden.shape[-1:], scale, bias, 1e-5)

    def mlp(self, name, hidden):
        """Apply norm, linear, GELU, linear."""
        hidden = self.linear(f"{name}.fc1", self.norm(f"{name}.norm", hidden))
        return self.linear(f"{name}.fc2", functional.gelu(hidden))


class Mixture:
    """What stands in the place of an attention layer's processor in diffusers' U-Net."""

    def __init__(self, oracle, path):
        """Serve the layer at `path` with the oracle's weights."""
        self.oracle, self.path = oracle, path
        self.block = next(i for i, block in enumerate(BLOCKS) if path.startswith(f"{block}."))

    def __call__(self, layer, hidden_states, encoder_hidden_states=None, **_):
        """Attend with the prior and with the personalized expert, and mix."""
        oracle, hidden, text = self.oracle, hidden_states, encoder_hidden_states
        own = prompt = hidden
        if text is not None:
            own, prompt = text, multimodal(text, oracle.subjects[:, self.block], oracle.tokens)
        project = {name: getattr(layer, name) for name in ("to_q", "to_k", "to_v")}
        prior, _ = attend(layer.heads, hidden, own, **project)
        prior = layer.to_out[0](prior)

        def learnt(name):
            return lambda source: oracle.linear(f"unet.{self.path}.{name}", source)

        project = {name: learnt(f"personalized.{name}") for name in project}
        personalized, weights = attend(layer.heads, hidden, prompt, **project)
        personalized = learnt("personalized.to_out.0")(personalized)
        routing = torch.softmax(learnt("router.logits")(hidden), dim=-1)
        side = round(hidden.shape[1] ** 0.5)
        oracle.routing[self.path] = routing[..., 0].unflatten(1, (side, side))
        oracle.attention[self.path] = weights
        return routing[..., :1] * prior + routing[..., 1:] * personalized


def attend(heads, hidden, source, to_q, to_k, to_v):
    """Attend from every pixel; the weights are "B N L S"."""
    query, key, value = (
        projected.unflatten(-1, (heads, -1)).transpose(1, 2)
        for projected in (to_q(hidden), to_k(source), to_v(source))
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = torch.softmax(scores, dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2), weights


def multimodal(text, subjects, tokens):
    """Put each subject in the place of its word; a place behind the text is none."""
    rows = []
    for row, embeddings, places in zip(text, subjects, tokens, strict=True):
        words = list(row)
        for embedding, place in zip(embeddings, places.tolist(), strict=True):
            if place < len(words):
                words[place] = embedding
        rows.append(torch.stack(words))
    return torch.stack(rows)


def fourier_features(timesteps, block):
    """Place (t, l) as NeTI does; a phase is the float32 that the network is given."""
    frequencies = np.random.RandomState(0).standard_normal((2, 128)).astype(np.float32)
    time = timesteps.numpy().astype(np.float32)[:, None] * (np.float32(0.03) * frequencies[0])
    phases = torch.tensor(time + np.float32(block) * (np.float32(2.0) * frequencies[1])).double()
    return torch.cat([phases.sin(), phases.cos()], dim=-1) / 128**0.5


def denoising_loss(prediction, target, union, masked):
    """Measure the squared error, of masked pictures on the union of their subjects alone."""
    weight = torch.where(masked[:, None, None, None], union, torch.ones_like(union))
    return functional.mse_loss(prediction * weight, target * weight)


def picture_loss(head, masks, tokens, present):
    """Give one head's balanced L1 of one picture, mean over the subjects that are there."""
    differences = []
    for mask, token in zip(masks[present], tokens[present], strict=True):
        weights, background = head[:, token], 1 - mask
        on_subject = (weights * mask).sum() / (mask.sum() + EPSILON)
        differences.append((weights * background).sum() / (background.sum() + EPSILON) - on_subject)
    return sum(differences, torch.zeros(())) / (len(differences) + EPSILON)


def resized(maps, side, antialias=False):
    """Resize "B C H W" to a square, bilinearly."""
    return functional.interpolate(maps, (side, side), mode="bilinear", antialias=antialias)


def channels_first(array):
    """Turn "B H W C" into a float64 tensor "B C H W"."""
    return torch.tensor(np.asarray(array, np.float64)).movedim(-1, 1)


def as_torch(path, leaf):
    """Give a leaf of ours transformers' name and axes; none of them is a convolution."""
    stem, _, kind = path.rpartition(".")
    return f"{stem}.{'bias' if kind == 'bias' else 'weight'}", leaf.T if kind == "kernel" else leaf
