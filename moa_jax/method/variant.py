"""The parts of MoA that may be replaced, and how to name a replacement.

`Variant` is the paper's MoA. A subclass overrides one or more of its methods, in any file::

    @dataclass(frozen=True)
    class MyVariant(Variant):
        sharpness: float = 2.0

        def router(self, method):
            return partial(MyRouter, sharpness=self.sharpness)

and `method.mixture=my_file:MyVariant(sharpness=3.0)` trains, saves, loads and draws with it. Its
fields are its options. They must be plain values, because equal options must mean equal models.
`moa_jax.testing.check_variant` tests any variant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
from jaxtyping import Array, Float, UInt8

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.backbone.clip import normalize_pixels
from moa_jax.backbone.transformer import FeedForward
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.extension import FORM, find, is_name
from moa_jax.method.mixture import Expert, MixtureOfAttention, counterpart
from moa_jax.method.prompt import SubjectPrompt, SubjectResidual, TimeLayerConditioning
from moa_jax.method.router import ROUTERS

Params = Mapping[str, Any]
Flat = dict[tuple[str, ...], Any]  # leaves by their path


@runtime_checkable
class Networks(Protocol):
    """The networks with which a variant may look at a subject's picture."""

    image_encoder: nn.Module
    vae: nn.Module


class Observations(NamedTuple):
    """What the layers did in one pass, by the path of the layer.

    Attributes:
        routing: "B h w E", the weight of every expert, for all mixture layers.
        attention: "B N h w K", the personalized expert's attention to the subjects' words, for
            cross-attention layers.
        extra: everything else that a module sowed as an intermediate, by the module's path and the
            value's name.
    """

    routing: dict[str, Array]
    attention: dict[str, Array]
    extra: dict[str, Any]


Run = Callable[[Any], tuple[Array, Observations]]  # one pass of the U-Net under a context


class Moment(NamedTuple):
    """The moment at which the U-Net is asked.

    Attributes:
        timesteps: "B", of the noise schedule.
        progress: "B", share of the training that is over, in [0, 1]; None outside of training.
        keys: "B" random keys, one for each picture; None outside of training.
    """

    timesteps: Array
    progress: Array | None = None
    keys: Array | None = None


class Forward(NamedTuple):
    """A forward pass of training, from which you may compute losses of your own.

    Attributes:
        prediction: "B h w C", what the U-Net predicts: noise, or velocity.
        target: "B h w C", what it should have predicted.
        timesteps: "B", of the noise schedule.
        seen: what the layers did, and all that they sowed.
        batch: as `moa_jax.data` gives it, with `progress` in it, see `Moment`.
        union: "B h w", the union of the subjects' masks, at the latents' size.
    """

    prediction: Array
    target: Array
    timesteps: Array
    seen: Observations
    batch: Mapping[str, Array]
    union: Array


@dataclass(frozen=True)
class Variant:
    """The paper's MoA; a subclass replaces parts of it, and its fields are its options.

    Attributes:
        exceptions: checks of `moa_jax.testing.check_variant` that do not hold by design, each with
            its reason.
    """

    exceptions: ClassVar[Mapping[str, str]] = {}

    def replaces(self, part: str) -> bool:
        """Tell whether the subclass has a method of this name of its own."""
        return getattr(type(self), part) is not getattr(Variant, part)

    # ---- the networks

    def router(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return a builder of routers; called with experts (how many), block and name="router".

        A router takes the features "B H W D" and the context. It returns weights "B H W E" in
        [0, 1] that sum to one over the experts, the prior first, and computes them in float32.
        """
        weight = method.initial_personalized_weight
        return partial(ROUTERS[method.router], initial_personalized_weight=weight)

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return a builder for each expert beside the prior, by name; called as `Expert` is.

        Args:
            block: the transformer block, counted from the U-Net's input.
        """
        return {"personalized": Expert}

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return a builder of attention layers; called with the attributes of `Attention`.

        Args:
            attend: how attention is computed, see `choose_attend`.
        """
        experts = partial(self.experts, method)
        return partial(
            MixtureOfAttention, router=self.router(method), experts=experts, attend=attend
        )

    def feed_forward(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return a builder of the network after the attention; called with dtype, block, name.

        The network takes the normalised features "B H W D" and the context, and returns "B H W D".
        Weights that `FeedForward` does not have count as added.
        """
        return FeedForward

    def prompt(self, method: MethodConfig, layers: int, dtype: Any) -> nn.Module:
        """Return the network that makes the context of text and subjects; see `SubjectPrompt`.

        Args:
            layers: number of transformer blocks of the U-Net.
        """
        if not method.time_layer_conditioning:
            return SubjectPrompt(layers, SubjectResidual, dtype)
        conditioning = partial(
            TimeLayerConditioning,
            sigmas=(method.sigma_t, method.sigma_l),
            frequencies=method.fourier_features,
        )
        return SubjectPrompt(layers, conditioning, dtype)

    def look(
        self, networks: Networks, params: Params, images: UInt8[Array, "B K H W 3"]
    ) -> Float[Array, "B K F"]:
        """Compute features of every subject's picture: here the image encoder's, pooled.

        Args:
            params: when `data.encoded` is written, those of the VAE and the image encoder alone.
        """
        batch, subjects = images.shape[:2]
        pixels = normalize_pixels(images.reshape(batch * subjects, *images.shape[2:]))
        features = networks.image_encoder.apply({"params": params["image_encoder"]}, pixels)
        return features.reshape(batch, subjects, -1)

    # ---- the parameters

    def shared(self, prior: Flat, key: Array) -> Flat:
        """Return arrays that belong to no single layer; the context has them as `shared`.

        Args:
            prior: the U-Net's weights.
        """
        return {}

    def start(self, added: Flat, prior: Flat) -> Flat:
        """Return the first values of what does not start at random: copies of the prior's weights.

        Args:
            added: shapes of all weights that the U-Net has beside the prior.
            prior: the U-Net's own weights; may be shapes.
        """
        origins = {path: prior.get(counterpart(path)[1]) for path in added}
        return {
            path: leaf
            for path, leaf in origins.items()
            if leaf is not None and leaf.shape == added[path].shape
        }

    def learns(self, path: str) -> bool:
        """Tell whether a weight that this variant adds learns; it is saved in either case.

        Args:
            path: the weight's place in the tree of parameters, joined by ".".
        """
        return True

    def weights(self, params: Params, moment: Moment) -> Params:
        """Unpack, merge or mask the weights to compute with, inside the compiled program."""
        return params

    # ---- training, and every prediction

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return further terms of the loss by name, already multiplied by their weights."""
        return {}

    def predict(self, run: Run, context: Any) -> tuple[Array, Observations]:
        """Predict; each call of `run(context)` asks the U-Net once."""
        return run(context)


BUILT_IN: dict[str, type[Variant]] = {"moa": Variant}


@cache
def resolve(name: str) -> Variant:
    """Make the variant that `method.mixture` names: `moa`, or `package.module:Class(option=1)`.

    Raises:
        InputError: as `find`, or the name is not that of a `Variant`.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    key = "method.mixture"
    if not is_name(name):
        raise InputError(
            f"{key}={name!r}: must be {', '.join(BUILT_IN)}, or a class of your own as {FORM}"
        )
    made = find(name, key)
    kind = made.func if isinstance(made, partial) else made
    if not (isinstance(kind, type) and issubclass(kind, Variant)):
        raise InputError(f"{key}={name!r}: must name a subclass of moa_jax.method.variant.Variant")
    return made()


def name_of(variant: Variant) -> str:
    """Return the name from which `resolve` makes a variant.

    Raises:
        InputError: the variant has no name, because its class is not at the top of a module or an
            option is not a plain value.
    """
    kind = type(variant)
    for name, built_in in BUILT_IN.items():
        if kind is built_in:
            return name
    given = {field.name: getattr(variant, field.name) for field in fields(variant)}
    options = ", ".join(f"{name}={value!r}" for name, value in given.items())
    name = f"{kind.__module__}:{kind.__qualname__}" + (f"({options})" if options else "")
    try:
        if resolve(name) == variant:
            return name
    except InputError as error:
        raise InputError(f"{variant} cannot be named: {error}") from error
    raise InputError(f"{variant} cannot be named: {name} makes another one")
