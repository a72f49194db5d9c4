"""Several adapters in one model: finished LoRA runs, put side by side and mixed.

`SeveralLoras` puts them into every projection of the personalized expert, and `XLora` mixes them by
what a first pass of the prior sees. `moa_jax.mixtures.gates` mixes them otherwise.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.mixture import Expert, MixtureOfAttention
from moa_jax.method.router import EXACT, ROUTER
from moa_jax.method.variant import Flat, Observations, Run
from moa_jax.mixtures.lowrank import Lora
from moa_jax.mixtures.options import require, require_count
from moa_jax.mixtures.runs import read_run
from moa_jax.mixtures.shared import low_rank, strongest

SCALINGS = "scalings"  # under this name they are sown, and handed on
OF_WORDS = ("to_k", "to_v")  # the projections of cross-attention that see words, not pixels


class WeighedLoras(Expert):
    """The prior's attention with several LoRAs in each projection, which `weigh` weighs.

    Their factors lie side by side in one pair of matrices, the first adapter's ranks first.

    Attributes:
        number: of adapters.
        rank: of each change.
        scale: factor of each change.
    """

    number: int = 3
    rank: int = 4
    scale: float = 1.0

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places D"]:
        """Apply the prior's projection, and the weighted changes to it."""
        weights = jnp.repeat(self.weigh(source, name), self.rank, axis=-1)
        ranks = self.number * self.rank

        def weighted(low: Float[Array, "B *places R"]) -> Float[Array, "B *places R"]:
            return low * weights.astype(low.dtype)

        change = low_rank(source, name, width, ranks, self.dtype, weighted)
        return self.prior(source, name) + self.scale * change

    def weigh(self, source: Float[Array, "B *places C"], name: str) -> Float[Array, "B *_places n"]:
        """Weigh the adapters; here they are alike everywhere."""
        return jnp.full((*source.shape[:-1], self.number), 1 / self.number)


@dataclass(frozen=True)
class SeveralLoras(Lora):
    """Finished LoRA runs side by side in one expert; a subclass says how they are weighed.

    Attributes:
        rank: of each adapter.
        number: of adapters.
        runs: folders of finished runs of `Lora` of this rank, one for each adapter; these then stay
            as they are. They are read when a training starts, and not when its weights are loaded.
            Without folders, the adapters learn with all else.
    """

    exceptions = {"prior_at_start": "adapters of finished runs are not silent at the start"}

    number: int = 3
    runs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse options that do not belong together."""
        super().__post_init__()
        require_count("number", self.number)
        fits = len(self.runs) in (0, self.number)
        require(fits, "runs", self.runs, f"empty or number={self.number} folders")

    def start(self, added: Flat, prior: Flat) -> Flat:
        """Return the adapters of the finished runs."""
        found, runs = super().start(added, prior), [self._read(folder) for folder in self.runs]
        for path in added:
            key = ".".join(("unet", *path))
            if runs and is_factor(key):
                parts = [weights[key] for weights in runs]
                found[path] = np.concatenate(parts, axis=1 if path[-2].endswith("down") else 0)
        return found

    def learns(self, path: str) -> bool:
        """Tell whether a weight learns: the adapters of finished runs do not."""
        return not (self.runs and is_factor(path))

    def _read(self, folder: str) -> dict[str, np.ndarray]:
        """Read a run, with the quotient of the scales in its second factors."""
        lora, weights = read_run(folder, Lora, rank=self.rank)
        ups = [path for path in weights if path.endswith(".up.kernel")]
        return weights | {path: lora.scale / self.scale * weights[path] for path in ups}


def is_factor(path: str) -> bool:
    """Tell whether a weight is one of the adapters' factors."""
    pattern = r"\.personalized\.(?:to_q|to_k|to_v|to_out\.0)\.(?:down|up)\.kernel$"
    return re.search(pattern, path) is not None


class ScaledLoras(WeighedLoras):
    """LoRAs that are weighed from outside.

    Attributes:
        scalings: "B H W n" for all pixels; None weighs all alike.
    """

    scalings: Any = None

    def weigh(self, source: Float[Array, "B *places C"], name: str) -> Float[Array, "B *_places n"]:
        """Weigh pixels by their own scalings, and words by the mean over the picture."""
        if self.scalings is None:
            return super().weigh(source, name)
        if self.cross and name in OF_WORDS:
            return jnp.mean(self.scalings, axis=(1, 2))[:, None]
        return self.scalings.reshape(*source.shape[:-1], self.number)  # in rows or in a line


class ScaledMixture(MixtureOfAttention):
    """Without scalings compute the prior alone and find the scalings; with them, mix.

    The last cross-attention of the U-Net has the head, and sows `scalings`: "B h w 2 blocks n" for
    the self- and cross-attention of all blocks.

    Attributes:
        number: of adapters.
        temperature: of the softmax over them.
        keep: how many adapters keep their scaling at a pixel.
    """

    number: int = 3
    temperature: float = 1.0
    keep: int = 3

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend, and mix in the second pass."""
        if SCALINGS in (context.shared or {}):
            return super().__call__(hidden, context, watch)
        blocks = context.subjects.shape[1]
        if self.cross and self.block == blocks - 1:
            width = 2 * blocks * self.number
            head = nn.Dense(width, use_bias=False, precision=EXACT, name=f"{ROUTER}.head")
            logits = head(hidden.astype(jnp.float32))
            logits = logits.reshape(*hidden.shape[:3], 2 * blocks, self.number)
            self.sow("intermediates", SCALINGS, jax.nn.softmax(logits / self.temperature, axis=-1))
        if self.is_initializing():
            return super().__call__(hidden, context, watch)
        return self.attended(self.project, hidden, context.text, watch)

    def builders(
        self, hidden: Float[Array, "B H W D"], context: Any
    ) -> Mapping[str, Callable[..., nn.Module]]:
        """Give the expert the scalings of its layer, at the layer's resolution."""
        made = super().builders(hidden, context)
        if SCALINGS not in (context.shared or {}):
            return made
        if context.sparse is not None and context.sparse.capacity < 1:
            raise InputError(
                f"capacity={context.sparse.capacity}: the adapters' scalings are of whole feature "
                "maps; draw X-LoRA with capacity=1"
            )
        scalings = context.shared[SCALINGS][:, :, :, 2 * self.block + self.cross]
        size = (*hidden.shape[:3], self.number)
        scalings = jax.image.resize(scalings, size, "linear")
        scalings = jnp.where(strongest(scalings, self.keep), scalings, 0.0)
        return {name: partial(make, scalings=scalings) for name, make in made.items()}


@dataclass(frozen=True)
class XLora(SeveralLoras):
    """A first pass without adapters decides, for every pixel and layer, how they are mixed.

    Equation: s = softmax(W h / temperature), h the features that the prior's last cross-attention
        reads in the first pass; then in layer l  y = W_0 x + scale sum_i s_li B_i A_i x. A pixel's
        s is resized to each layer's feature map; words get its mean over the picture.
    Source: X-LoRA (arXiv 2402.07148), from its code in peft: the pass without adapters, the head,
        a scaling for each token and layer, and the choice of the largest, which are not divided by
        their sum.
    Left out: a deeper head with dropout; a scaling for each projection, where here the four of an
        attention layer share one. The runs' prompts and routers: the prompt, MoA's routers and the
        head learn anew over adapters that stay as they are.

    Attributes:
        temperature: of the softmax, above 0.
        keep: how many adapters keep their scaling at a pixel; 0 means all.
    """

    temperature: float = 1.0
    keep: int = 0

    def __post_init__(self) -> None:
        """Refuse options that leave no adapter."""
        super().__post_init__()
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        fits = 0 <= self.keep <= self.number
        require(fits, "keep", self.keep, f"0 for all, or 1 to number={self.number}")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        sizes = {"number": self.number, "rank": self.rank, "scale": self.scale}
        return {"personalized": partial(ScaledLoras, **sizes)}

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return the builder of attention layers."""
        return partial(
            ScaledMixture,
            router=self.router(method),
            experts=partial(self.experts, method),
            attend=attend,
            number=self.number,
            temperature=self.temperature,
            keep=self.keep or self.number,
        )

    def predict(self, run: Run, context: Any) -> tuple[Array, Observations]:
        """Predict in two passes: the prior's, which gives the scalings, and the adapters'."""
        _, seen = run(context._replace(shared=None))
        found = [value for path, value in seen.extra.items() if path.endswith(f".{SCALINGS}")]
        return run(context._replace(shared={SCALINGS: found[0]}))
