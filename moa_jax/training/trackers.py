"""Optional logging to Weights & Biases and to trackio: only this module imports these libraries.

trackio writes to a database on this machine, by default in Hugging Face's cache; the variable
TRACKIO_DIR names another folder. `trackio show` draws it. Nothing is uploaded unless trackio's own
variables TRACKIO_SPACE_ID or TRACKIO_SERVER_URL ask for it. Where an account of Hugging Face is
logged in, trackio asks the Hub for its name.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from moa_jax.config import Config, TrainConfig, flatten
from moa_jax.errors import InputError
from moa_jax.extension import import_extra

# Libraries by the key of their project in `TrainConfig`, and how to install each.
INSTALL = {"wandb": "pip install wandb", "trackio": "pip install 'moa_jax[trackio]'"}


@runtime_checkable
class Tracker(Protocol):
    """A run that takes numbers, as wandb's and trackio's runs do."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of one step; a step that was logged before is left as it is."""

    def finish(self) -> None:
        """Write what is left."""


def import_trackers(train: TrainConfig) -> dict[str, Any]:
    """Import the libraries whose project is set, by their names.

    Raises:
        InputError: one is not installed.
    """
    projects = {library: getattr(train, library) for library in INSTALL}
    return {
        library: import_extra(
            library,
            f"train.{library}={project!r}",
            f"{INSTALL[library]}, or set train.{library}=none",
        )
        for library, project in projects.items()
        if project is not None
    }


def open_trackers(config: Config) -> list[Tracker]:
    """Open the runs of this output folder in the projects `train.wandb` and `train.trackio`.

    A run that was opened before goes on.

    Raises:
        InputError: a library is not installed, or trackio refuses the project's name.
    """
    libraries = import_trackers(config.train)
    folder = Path(config.train.output)
    folder.mkdir(parents=True, exist_ok=True)
    openers = {"wandb": _open_wandb, "trackio": _open_trackio}
    return [
        openers[library](module, getattr(config.train, library), folder, flatten(config))
        for library, module in libraries.items()
    ]


def _open_wandb(wandb: Any, project: str, folder: Path, config: dict[str, Any]) -> Tracker:
    return wandb.init(
        project=project,
        name=folder.name,
        id=_own_id(folder / "wandb_id"),
        resume="allow",  # goes on with the run of this id, or begins it
        dir=str(folder),
        config=config,
    )


def _open_trackio(trackio: Any, project: str, folder: Path, config: dict[str, Any]) -> Tracker:
    name = f"{folder.name}-{_own_id(folder / 'trackio_id')}"  # a run goes on by its name alone
    options = {"auto_log_gpu": False, "auto_log_cpu": False}  # the numbers of this run only
    try:
        # Without `embed=False` it would start a server where it runs in a notebook.
        run = trackio.init(project, name, config=config, resume="allow", embed=False, **options)
    except ValueError as error:
        raise InputError(f"train.trackio={project!r}: {error}") from error
    return _Trackio(trackio, run)


class _Trackio:
    """A run of trackio that, like those of Weights & Biases, takes each step once."""

    def __init__(self, library: Any, run: Any) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        last = SQLiteStorage.get_max_step_for_run(run.project, run.name, run_id=run.id)
        self._library, self._run, self._last = library, run, -1 if last is None else last

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step > self._last:
            self._run.log(dict(values), step=step)

    def finish(self) -> None:
        self._library.finish()  # its own `finish` would leave it the current run


def _own_id(file: Path) -> str:
    """Give the id of a run, by which it goes on when it is resumed; the file keeps it."""
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return file.read_text(encoding="utf-8")
