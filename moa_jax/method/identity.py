"""Which frozen networks some weights belong to, and what to say when others are loaded."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Identity:
    """The frozen networks that weights belong to: names for people, fingerprints to compare."""

    base: str
    image_encoder: str
    fingerprints: dict[str, str]  # of unet, vae, text_encoder, image_encoder

    @classmethod
    def of(cls, sd: StableDiffusion, image_encoder: str | None = None) -> "Identity":
        """Identify a loaded checkpoint.

        Args:
            image_encoder: where its image encoder came from; None means the base folder itself.
        """
        parts = ("unet", "vae", "text_encoder", "image_encoder")
        components = {part: getattr(sd, part) for part in parts}
        return cls(
            base=sd.name,
            image_encoder=image_encoder or sd.name,
            fingerprints={part: c.fingerprint for part, c in components.items() if c is not None},
        )

    def carrying(self, carried: Mapping[str, np.ndarray], source: str | Path) -> "Identity":
        """Identify these networks with other weights in the image encoder.

        Args:
            carried: the weights that replace the encoder's own, by their path.
            source: the folder that they came from.
        """
        if not carried:
            return self
        # The carried weights are only a part of the encoder; the rest is what it was.
        digest = hashlib.sha256(self.fingerprints["image_encoder"].encode())
        for path, array in sorted(carried.items()):  # their order in a file says nothing
            digest.update(f"{path} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return dataclasses.replace(
            self,
            image_encoder=f"{self.image_encoder} with that of {str(source)!r}",
            fingerprints=self.fingerprints | {"image_encoder": digest.hexdigest()},
        )

    def require(self, loaded: "Identity", what: str) -> None:
        """Refuse networks other than the ones `what` was made with.

        Raises:
            InputError: a component differs; the message names all that do, where both came from
                and the remedy.
        """
        differing = [part for part in self.fingerprints if not self._agrees(loaded, part)]
        if differing:
            listed = "; on ".join(self._difference(loaded, part) for part in differing)
            raise InputError(
                f"{what} was trained on {listed}: use the networks it was trained on, or train "
                "again on these"
            )

    def _agrees(self, loaded: "Identity", part: str) -> bool:
        return self.fingerprints[part] == loaded.fingerprints.get(part)

    def _difference(self, loaded: "Identity", part: str) -> str:
        mine, theirs = (
            i.image_encoder if part == "image_encoder" else i.base for i in (self, loaded)
        )
        return (
            f"the {part} of {mine!r} (fingerprint {self.fingerprints[part][:12]}), but {theirs!r} "
            f"has another one (fingerprint {loaded.fingerprints.get(part, 'none')[:12]})"
        )
