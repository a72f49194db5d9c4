"""The rows of the table, and their training by the project's own command.

A row is `configs/toy.py` with some values changed, so all rows have the same budget. A row that is
complete is not trained again; one that was interrupted resumes. One row reads another data set: the
same pictures, where each person is shown by another picture than the one to draw.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moa_jax.config import Config, flatten, load_config, override
from moa_jax.errors import InputError
from moa_jax.method.weights import WEIGHTS_NAME, read_moa_card
from moa_jax.toyworld.world.scenes import DATA_SET, write_data

SWEEP = ("1e-4", "1e-3", "1e-2", "1e-1")  # of lambda_r
WEIGHT = "method.router_loss_weight"
HOW = ("data.workers", "data.resident", "model.attention")  # how a run computes, not what it learns
PRIOR, MOA, SINGLE = "prior", "moa", "single-branch"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: the name of its folders.
        title: the name that people read.
        overrides: values of the configuration that it changes.
        seeds: number of trainings, which differ in their random numbers; 0 for the prior, which is
            not trained.
        weights: folder of weights to measure as they are; None means that the row is trained.
        paired: whether its data set has references; see `write_data`.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    weights: Path | None = None
    paired: bool = False


def make_rows(config: Config) -> list[Row]:
    """List the rows; the sweep leaves out the configuration's own lambda_r, which MoA's row has."""
    own = config.method.router_loss_weight
    kept = ("path", "encoded", "latents")
    folders = {f"data.{name}": getattr(config.data, name) for name in kept}
    paired = tuple(f"{key}={folder}_paired" for key, folder in folders.items() if folder)
    return [
        Row(PRIOR, "prior, no subject", seeds=0),
        Row(MOA, f"MoA, λ_r = {own:g}", seeds=3),
        Row(SINGLE, "single branch, no prior, no router", ("method.router=personalized",), seeds=3),
        Row("paired", "MoA, paired references", paired, seeds=3, paired=True),
        Row("no-router-loss", "MoA, λ_r = 0", (f"{WEIGHT}=0",), seeds=3),
        *(
            Row(f"router-loss-{value}", f"MoA, λ_r = {float(value):g}", (f"{WEIGHT}={value}",))
            for value in SWEEP
            if float(value) != own
        ),
        Row("no-object-loss", "MoA, no object loss", ("method.object_loss_weight=0",), seeds=3),
        Row("no-masked-loss", "MoA, no masked loss", ("method.mask_probability=0",), seeds=3),
        Row(
            "no-time-layer",
            "MoA, no time and layer conditioning",
            ("method.time_layer_conditioning=false",),
            seeds=3,
        ),
    ]


def given_rows(given: Sequence[tuple[str, Path]]) -> list[Row]:
    """List rows of weights that somebody has trained; the others are compared with the first.

    Args:
        given: for each a short name, for the table, and the folder.
    """
    names = [MOA, *(f"given-{number}" for number in range(1, len(given)))]
    return [
        Row(name, f"MoA, {short}", weights=folder)
        for name, (short, folder) in zip(names, given, strict=True)
    ]


def select(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Choose rows by name, in the table's order; without names, choose all.

    Raises:
        InputError: there is no such row.
    """
    known = [row.name for row in rows]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"--rows {' '.join(unknown)}: the rows are {', '.join(known)}")
    return [row for row in rows if not names or row.name in names]


def row_config(row: Row, seed: int, config: Config) -> Config:
    """Give the configuration of one training of a row."""
    return override(config, [*row.overrides, f"train.seed={seed}"])


@dataclass(frozen=True)
class Training:
    """One training of a row, or the prior, which is not trained."""

    row: Row
    seed: int
    recipe: dict[str, str]

    @property
    def name(self) -> str:
        """The name of its folder and of its record."""
        return f"{self.row.name}-{self.seed}" if self.row.seeds else self.row.name


def trainings_of(row: Row, config: Config) -> list[Training]:
    """List the trainings of a row."""
    if not row.seeds:
        return [Training(row, 0, {})]
    seeds = range(row.seeds)
    return [Training(row, seed, recipe(row_config(row, seed, config))) for seed in seeds]


def train(row: Row, seed: int, folder: Path, config: str, extra: Sequence[str] = ()) -> None:
    """Train one row with one seed, unless that is complete.

    Args:
        folder: folder of the run.
        config: file of the configuration.
        extra: overrides that all rows share.

    Raises:
        InputError: the run's folder holds another configuration, or training failed.
    """
    assignments = [*extra, *row.overrides, f"train.seed={seed}", f"train.output={folder}"]
    wanted = row_config(row, seed, override(load_config(config), extra))
    if is_trained(folder, wanted):
        return
    ensure_data(row, wanted)
    _run_train(f"training {folder.name}", config, *assignments)


def ensure_data(row: Row, wanted: Config) -> None:
    """Render the pictures that a row is trained on, unless they are there."""
    data = Path(wanted.data.path)
    if not data.exists():
        # Renamed at the end, so that an interrupted data set is never taken for a complete one.
        unfinished = data.with_name(data.name + ".unfinished")
        write_data(unfinished, DATA_SET, paired=row.paired)
        unfinished.rename(data)


def ensure_encoded(row: Row, config: str, extra: Sequence[str] = ()) -> None:
    """Render and encode what a row is trained on, so that several trainings may read it at once.

    Args:
        config: file of the configuration.
        extra: overrides that all rows share.

    Raises:
        InputError: encoding failed.
    """
    overrides = [*extra, *row.overrides]
    wanted = override(load_config(config), overrides)
    ensure_data(row, wanted)
    if wanted.data.encoded and not Path(wanted.data.encoded).exists():
        _run_train(f"encoding for {row.name}", config, *overrides, "--encode")


def _run_train(doing: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "moa_jax.commands.train", *arguments]
    code = subprocess.run(command, check=False).returncode
    if code == 130:  # stopped by Ctrl-C
        raise KeyboardInterrupt
    if code:
        raise InputError(f"{doing} failed with exit code {code}: see above")


def recipe(config: Config) -> dict[str, str]:
    """List the values of a configuration that decide what is learnt."""
    deciding = ("model.", "method.", "optimizer.", "data.")
    return {
        key: json.dumps(value)
        for key, value in flatten(config).items()
        if (key.startswith(deciding) and key not in HOW)
        or key in ("train.seed", "train.batch_size", "train.steps")
    }


def is_trained(folder: Path, wanted: Config) -> bool:
    """Say whether a run is complete: its weights are there, after all of their steps.

    Raises:
        InputError: the weights were trained with other values.
    """
    if not (folder / WEIGHTS_NAME).is_file():
        return False
    card = read_moa_card(folder)
    was = recipe(card.config)
    changed = [
        f"{key}={was.get(key)} instead of {value}"
        for key, value in recipe(wanted).items()
        # Fewer steps are no other recipe: such a run goes on.
        if was.get(key) != value and key != "train.steps"
    ]
    if changed:
        raise InputError(
            f"{str(folder)!r} was trained with {'; '.join(changed)}: delete it, or choose another "
            "--runs"
        )
    return card.step >= wanted.train.steps
