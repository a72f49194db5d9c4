"""Optional logging to Weights & Biases: only this module imports the library."""

import importlib
import uuid
from pathlib import Path
from typing import Any

from moa_jax.config import Config, flatten
from moa_jax.errors import InputError

ID_NAME = "wandb_id"  # a file, by which a resumed run goes on under its own id


def import_wandb(project: str) -> Any:
    """Import the library.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise InputError(
            f"train.wandb={project!r} needs a library: pip install wandb, or set train.wandb=none"
        ) from error


def open_wandb(config: Config) -> Any | None:
    """Open the run of this output folder in the project `train.wandb`; None if there is none.

    Raises:
        InputError: the library is not installed.
    """
    project = config.train.wandb
    if project is None:
        return None
    wandb = import_wandb(project)
    folder = Path(config.train.output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ID_NAME
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return wandb.init(
        project=project,
        name=folder.name,
        id=path.read_text(encoding="utf-8"),
        resume="allow",  # goes on with the run of this id, or begins it
        dir=str(folder),
        config=flatten(config),
    )
