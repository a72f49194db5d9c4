"""Training checkpoints: everything of orbax that this project uses is in this file.

A checkpoint holds the state (trained weights, optimizer, EMA, step, key), the place in the data,
the configuration, and the identity of the frozen networks. The frozen weights themselves are never
written. Saves run in the background; a save that is cut short leaves no checkpoint. A checkpoint is
compared with its checksums when it is read: one that is not intact is set aside, and the one before
it is used.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from moa_jax.config import Config, flatten
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.trained import leaf_paths
from moa_jax.training import hosts
from moa_jax.training.checksum import checksums
from moa_jax.training.disk import writing

State = TypeVar("State")

# Configuration values that decide which arrays the state has, and for each the part that decides:
# if that part changes, so do the arrays. A test covers every value of `method` and `optimizer`.
SHAPES_STATE: dict[str, Callable[[Any], Any]] = {
    "method.mixture": lambda variant: variant,
    "method.router": lambda kind: kind,
    "method.time_layer_conditioning": lambda used: used,
    "method.fourier_features": lambda count: count,
    "method.image_encoder_layers": lambda count: count,
    "optimizer.muon_learning_rate": lambda rate: rate is None,
    "optimizer.router_start": lambda step: step == 0,
    "optimizer.ema_decay": lambda decay: decay is None,
}


class _OnAllHosts:
    """A handler that reads on all hosts or on none: orbax would wait for a host that failed."""

    def restore(self, *args: Any, **options: Any) -> Any:
        """Read the item."""
        return hosts.together(partial(super().restore, *args, **options))


class _State(_OnAllHosts, ocp.StandardCheckpointHandler):
    """The handler of arrays."""


class _Text(_OnAllHosts, ocp.JsonCheckpointHandler):
    """The handler of JSON."""


ITEMS = (
    ("state", ocp.args.StandardSave, ocp.args.StandardRestore, _State),
    ("data", ocp.args.JsonSave, ocp.args.JsonRestore, _Text),
    ("card", ocp.args.JsonSave, ocp.args.JsonRestore, _Text),
)


class Checkpoints:
    """The checkpoints of one run; only the newest few are kept."""

    def __init__(self, folder: Path, config: Config, identity: Identity) -> None:
        """Open `folder`, or make it.

        Args:
            config: saved with every checkpoint; `train.keep_checkpoints` says how many are kept.
            identity: of the frozen networks; a checkpoint made with others is refused.
        """
        self._config, self._identity = config, identity
        self.folder = folder.absolute()
        items = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for item, save, restore, kind in ITEMS:
            handler = kind()
            items.add(item, save, handler)
            items.add(item, restore, handler)
        self._manager = ocp.CheckpointManager(
            self.folder,
            handler_registry=items,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.train.keep_checkpoints,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,  # left by saves that were cut short
            ),
        )

    @property
    def newest(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def where(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / str(step)

    def save(self, step: int, state: Any, data: Mapping[str, Any]) -> None:
        """Begin to save; returns as soon as the state is copied off the device.

        Args:
            data: the place in the data after `step` batches, as JSON can hold it.
        """
        card = {
            "config": dataclasses.asdict(self._config),
            "identity": dataclasses.asdict(self._identity),
            "checksums": checksums(state),
        }
        card["seal"] = _seal(card, data)
        with writing(self.folder):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(dict(data)),
                    card=ocp.args.JsonSave(card),
                ),
            )

    def restore(self, like: State) -> tuple[State, dict[str, Any], list[str]] | None:
        """Read the newest intact checkpoint; rename newer ones that are not intact.

        Args:
            like: a state of the same shape; the restored state gets its shardings.

        Returns:
            (state, place in the data, notes); the notes say what was set aside and which values of
            the configuration have changed since. None if there is no checkpoint.

        Raises:
            InputError: the checkpoint was made with other frozen networks, its state has another
                shape, or there are checkpoints and none is intact. Nothing is renamed then.
        """
        broken: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, place, changes = self._read(step, like)
            except InputError:
                raise
            except Exception as error:  # broken files make the libraries raise errors of any kind
                lines = str(error).splitlines() or [""]
                broken[step] = f"{type(error).__name__}: {lines[0]:.200}"
                continue
            return state, place, [*self._set_aside(broken), *changes]
        if broken:
            listed = "; ".join(f"{step} ({why})" for step, why in broken.items())
            raise InputError(
                f"no checkpoint in {str(self.folder)!r} can be read: {listed}. Put intact ones "
                "there from a copy, or choose another train.output to begin anew"
            )
        return None

    def reached_preemption(self, step: int) -> bool:
        """Tell whether the hosts agreed to stop at this step; every host must ask at every step."""
        return self._manager.reached_preemption(step)

    def finish(self) -> None:
        """Wait until every save that was begun is on disk."""
        with writing(self.folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for the saves and release the folder."""
        with writing(self.folder):
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        """Use as a context manager."""
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Close; but not after a failure on many hosts, because the others may be gone."""
        if failure is None or jax.process_count() == 1:
            self.close()

    def _read(self, step: int, like: State) -> tuple[State, dict[str, Any], list[str]]:
        """Read one checkpoint and compare it with its checksums."""
        texts = ocp.args.Composite(card=ocp.args.JsonRestore(), data=ocp.args.JsonRestore())
        read = self._manager.restore(step, args=texts)
        card, place = read["card"], read["data"]
        sealed = "seal" in card  # checkpoints of earlier versions have no seal
        if sealed and card["seal"] != _seal(card, place):
            raise ValueError("its card or its place in the data is not what was saved")
        changes = self._check(step, card, like)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        arrays = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        state = self._manager.restore(step, args=arrays)["state"]
        if sealed and (found := checksums(state)) != card["checksums"]:
            changed = [path for path in found if found[path] != card["checksums"].get(path)]
            raise ValueError(f"arrays are not those that were saved: {', '.join(changed)}")
        return state, place, changes

    def _set_aside(self, broken: Mapping[int, str]) -> list[str]:
        """Rename checkpoints that are not intact, so that their steps can be saved again."""
        notes = []
        for step, why in broken.items():
            aside = self.where(step).with_name(f"{step}.broken")
            if hosts.first():  # one host alone, because all share the folder
                while aside.exists():
                    aside = aside.with_name(aside.name + "-too")
                self.where(step).rename(aside)
            notes.append(f"checkpoint {str(self.where(step))!r} is not intact ({why}): set aside")
        if broken:
            multihost_utils.sync_global_devices("checkpoints set aside")
            self._manager.reload()
        return notes

    def _check(self, step: int, card: Mapping[str, Any], like: Any) -> list[str]:
        """Refuse a state with other arrays or of another base; list the values that changed."""
        what = f"checkpoint {str(self.where(step))!r}"
        Identity(**card["identity"]).require(self._identity, what)
        now = flatten(self._config)
        saved = {
            f"{s}.{key}": v for s, values in card["config"].items() for key, v in values.items()
        }
        shaping = [
            f"{key}={saved[key]!r}, not {now[key]!r}"
            for key, shape in SHAPES_STATE.items()
            if key in saved and shape(saved[key]) != shape(now[key])
        ]
        if shaping:
            raise InputError(
                f"{what} was made with {' and '.join(shaping)}, so its state has other arrays: "
                "set that back to go on, or choose another train.output to begin anew with it"
            )
        self._require_arrays(what, card, like)
        # A value that an earlier version did not know was as its default is.
        before = flatten(Config()) | saved
        return [
            f"changed since: {key} was {before[key]!r}, is {value!r}"
            for key, value in now.items()
            if before[key] != value
        ]

    def _require_arrays(self, what: str, card: Mapping[str, Any], like: Any) -> None:
        """Refuse a state with other arrays, where no value of the configuration explains them."""
        if "checksums" not in card:  # checkpoints of earlier versions have none
            return
        differing = sorted(card["checksums"].keys() ^ leaf_paths(like).keys())
        if differing:
            raise InputError(
                f"{what} has not the arrays of this run's state: {len(differing)} are in one of "
                f"the two alone, {differing[0]} among them. Another version of moa_jax wrote it: "
                "go on with that version, or choose another train.output to begin anew"
            )


def _seal(card: Mapping[str, Any], data: Mapping[str, Any]) -> int:
    """Give a checksum of what is saved as text, whatever its layout in the file."""
    parts = [{key: value for key, value in card.items() if key != "seal"}, dict(data)]
    return zlib.crc32(json.dumps(parts, sort_keys=True).encode())
