"""Training checkpoints: everything of orbax that this project uses is in this file.

A checkpoint holds the state (trained weights, optimizer, EMA, step, key), the place in the data,
the configuration, and the identity of the frozen networks. The frozen weights themselves are never
written. Saves run in the background; a save cut short is not a checkpoint.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from moa_jax.config import Config, flatten
from moa_jax.errors import InputError
from moa_jax.method.weights import Identity

State = TypeVar("State")

# Configuration values that give the state its shape: another value is another state.
SHAPES_STATE = (
    "method.router",
    "method.time_layer_conditioning",
    "method.fourier_features",
    "method.image_encoder_layers",
)


class Checkpoints:
    """The checkpoints of one run, the newest few of which are kept."""

    def __init__(self, folder: Path, config: Config, identity: Identity) -> None:
        """Open `folder`, or make it.

        Args:
            config: saved with every checkpoint; `train.keep_checkpoints` says how many are kept.
            identity: of the frozen networks; a checkpoint made on others is refused.
        """
        self._config, self._identity = config, identity
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.train.keep_checkpoints,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def newest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def where(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / str(step)

    def save(self, step: int, state: Any, data: Mapping[str, Any]) -> None:
        """Begin to save; returns as soon as the state is copied off the device.

        Args:
            data: place in the data after `step` batches, as JSON can hold it.
        """
        card = {
            "config": dataclasses.asdict(self._config),
            "identity": dataclasses.asdict(self._identity),
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(dict(data)),
                card=ocp.args.JsonSave(card),
            ),
        )

    def restore(self, like: State) -> tuple[State, dict[str, Any], list[str]] | None:
        """Read the newest checkpoint.

        Args:
            like: a state of the same shape, whose shardings the restored one gets.

        Returns:
            (state, place in the data, what the configuration changed since); None when there is
            no checkpoint.

        Raises:
            InputError: it was made on other frozen networks, or its state has another shape.
        """
        step = self.newest
        if step is None:
            return None
        card = self._manager.restore(step, args=ocp.args.Composite(card=ocp.args.JsonRestore()))
        changes = self._check(step, card["card"])
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["data"], changes

    def finish(self) -> None:
        """Wait until what was begun to be saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish, and let go of the folder."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        """Use as a context manager."""
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Close; after a failure on many hosts, whose others may be gone, without them."""
        if failure is None or jax.process_count() == 1:
            self.close()

    def _check(self, step: int, card: Mapping[str, Any]) -> list[str]:
        """Refuse a state of another shape or base; list the other values that differ."""
        what = f"checkpoint {str(self.where(step))!r}"
        Identity(**card["identity"]).require(self._identity, what)
        now = flatten(self._config)
        saved = {
            f"{s}.{key}": v for s, values in card["config"].items() for key, v in values.items()
        }
        remedy = "set it back, or choose another train.output"
        for key in SHAPES_STATE:
            if saved.get(key) != now[key]:
                raise InputError(
                    f"{what} was made with {key}={saved.get(key)!r}, not {now[key]!r}: {remedy}"
                )
        ema = "optimizer.ema_decay"
        if (saved.get(ema) is None) != (now[ema] is None):
            raise InputError(
                f"{what} was made with {ema}={saved.get(ema)}, not {now[ema]}: {remedy}"
            )
        return [
            f"{key} was {saved.get(key)!r}, is {value!r}"
            for key, value in now.items()
            if saved.get(key) != value
        ]
