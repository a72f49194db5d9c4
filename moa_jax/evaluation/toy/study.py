"""Draw, read and measure one row after the other; what is done already is not done again.

A run's pictures and numbers lie beside its weights. They are taken from there as long as weights,
base, readers and protocol are the same. `rows` trains, and the command decides what is printed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moa_jax.backbone.stable_diffusion import StableDiffusion, load_stable_diffusion
from moa_jax.config import MethodConfig
from moa_jax.evaluation.toy import metrics
from moa_jax.evaluation.toy.drawing import Pictures, draw, through_vae
from moa_jax.evaluation.toy.protocol import (
    Protocol,
    Trial,
    make_trials,
    pairs_within,
    redraw,
    same_noise,
    same_scene,
    strangers,
)
from moa_jax.evaluation.toy.records import Numbers, read_json, write_json
from moa_jax.method.identity import Identity
from moa_jax.method.weights import CARD_NAME, WEIGHTS_NAME, read_moa_card
from moa_jax.sampling.load import choose_dtype
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.readers.reading import COMMITTED, Readers, Reading
from moa_jax.toyworld.readers.training import reader_accuracy

Progress = Callable[[int, int], None]  # pictures drawn, of how many

RESULT, PICTURES = "evaluation.json", "evaluation.npz"
MEASURE = 1  # version of the measures: it changes when the same pictures give other numbers
REAL = 4  # renders of each trial that the reader FID compares with


def study_key(
    fingerprints: Mapping[str, str], protocol: Protocol | None = None, readers: Path = COMMITTED
) -> str:
    """Hash everything that a row's numbers depend on, besides its own weights.

    Args:
        fingerprints: of the base's networks, see `Identity`.
        readers: file of the readers' weights.
    """
    judged_by = hashlib.sha256(Path(readers).read_bytes()).hexdigest()
    parts = [json.dumps(dataclasses.asdict(protocol or Protocol()), sort_keys=True), str(MEASURE)]
    parts += [judged_by, json.dumps(dict(fingerprints))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run_key(key: str, weights: Path | None, settings: Mapping[str, Any] | None = None) -> str:
    """Hash what the numbers in `evaluation.json` were measured of.

    Args:
        key: of the study, from `study_key`.
        weights: the folder of `moa.safetensors`; None means the prior.
        settings: how it is drawn, beside what the protocol says.
    """
    parts = [weights / WEIGHTS_NAME, weights / CARD_NAME] if weights else []
    # If a file is missing, loading the weights names it.
    # The content counts, not the folder: weights that were trained anew are measured anew.
    content = b"".join(part.read_bytes() for part in parts if part.is_file())
    how = json.dumps(settings, sort_keys=True, default=repr) if settings else ""
    return hashlib.sha256(key.encode() + content + how.encode()).hexdigest()


class Study:
    """Everything that the rows share: protocol, readers, base, and the prior's pictures."""

    def __init__(
        self, base: str, runs: Path, protocol: Protocol | None = None, readers: Path = COMMITTED
    ) -> None:
        """Prepare; nothing is loaded before it is needed.

        Args:
            base: the prior's folder.
            runs: where the shared results are kept.
            readers: file of the readers' weights.
        """
        self.protocol = protocol or Protocol()
        self.trials = make_trials(self.protocol)
        self._base, self.runs, self._readers = base, runs, readers
        self._pipelines: dict[MethodConfig, Pipeline] = {}

    @cached_property
    def readers(self) -> Readers:
        """The networks that judge the pictures."""
        return Readers.load(self._readers)

    @cached_property
    def base(self) -> StableDiffusion:
        """The prior's networks."""
        return load_stable_diffusion(self._base, choose_dtype())

    @cached_property
    def alone(self) -> list[int]:
        """Places of the trials with one person."""
        return [i for i, trial in enumerate(self.trials) if len(trial.people) == 1]

    @cached_property
    def key(self) -> str:
        """Hash of everything that a row's numbers depend on, besides its own weights."""
        return study_key(Identity.of(self.base).fingerprints, self.protocol, self._readers)

    def renders(self) -> dict[str, Numbers]:
        """Examine the readers, and find floor and ceiling, on renders.

        Returns:
            "readers": their accuracy. "floor", "ceiling" and "vae": the identity of other people
            in the same scenes, of the same people drawn again by the renderer, and of the latter
            encoded and decoded. "prompt" and "fid": measures of the renderer's own pictures.
        """
        file = self.runs / "renders.json"
        cached = read_json(file)
        if cached.get("key") == self.key:
            return cached["renders"]
        trials = [self.trials[i] for i in self.alone]
        again = redraw(trials, seed=1)
        read = self.readers.read
        ceiling = read(again)
        others = strangers(self.trials, self.protocol)
        renders = {
            "readers": reader_accuracy(self.readers, self.protocol.renders),
            "floor": metrics.identity(read(redraw([others[i] for i in self.alone], 2)), trials),
            "ceiling": metrics.identity(ceiling, trials),
            "vae": metrics.identity(read(through_vae(self.base, again)), trials),
            "prompt": metrics.prompt_consistency(ceiling, trials),
            "fid": {"overall": self._fid(read(redraw(others, 3)))},
        }
        write_json(file, {"key": self.key, "renders": renders})
        return renders

    def prior(self, on_batch: Progress | None = None) -> Numbers:
        """Measure the prior."""
        return self._measured(self.runs / "prior", None, on_batch)

    def row(
        self, weights: Path, cache: Path, on_batch: Progress | None = None, **settings: Any
    ) -> Numbers:
        """Measure trained MoA weights.

        Args:
            weights: the folder of `moa.safetensors`.
            cache: where pictures and numbers are kept; may be the same folder.
            **settings: how to draw, beside what the protocol says; see `Settings`.
        """
        return self._measured(cache, weights, on_batch, **settings)

    def pictures(self, cache: Path) -> Pictures | None:
        """Give a run's pictures, if they have been drawn."""
        file = cache / PICTURES
        return np.load(file)["pictures"] if file.is_file() else None

    def _measured(
        self, cache: Path, weights: Path | None, on_batch: Progress | None, **settings: Any
    ) -> Numbers:
        run = run_key(self.key, weights, settings)
        result = read_json(cache / RESULT)
        if result.get("run") == run:
            return result["numbers"]
        cache.mkdir(parents=True, exist_ok=True)
        pipeline = self.pipeline(weights)
        pictures = draw(pipeline, self.trials, self.protocol, on_batch, **settings)
        np.savez_compressed(cache / PICTURES, pictures=pictures)
        numbers = self.measure(pictures, is_prior=weights is None)
        write_json(cache / RESULT, {"run": run, "numbers": numbers})
        return numbers

    def pipeline(self, weights: Path | None) -> Pipeline:
        """Load a row into an earlier pipeline of the same method, which is compiled already."""
        if weights is None:
            return Pipeline(self.base)
        loaded = Pipeline.from_pretrained(self._base, weights)
        method = read_moa_card(weights).config.method
        compiled = self._pipelines.setdefault(method, loaded)
        compiled.params = loaded.params
        return compiled

    def measure(self, pictures: Pictures, is_prior: bool) -> Numbers:
        """Read and measure a row's pictures of all trials."""
        readings = self.readers.read(pictures)
        alone, pairs = self._split(readings)
        trials_alone, trials_pairs = self._split(self.trials)
        groups: dict[str, Numbers] = {
            "identity": metrics.identity(alone, trials_alone),
            "prompt": metrics.prompt_consistency(readings, self.trials),
            "pairs": {
                **metrics.binding(pairs, trials_pairs),
                "identity": metrics.identity(pairs, trials_pairs)["overall"],
            },
            "swap": metrics.changes(pictures, readings, self._within(same_noise)),
            "noise": metrics.changes(pictures, readings, self._within(same_scene)),
            "quality": {"fid": self._fid(readings)},
        }
        if not is_prior:
            prior, prior_readings = self._prior
            every = [(i, i) for i in self.alone]
            groups["from_prior"] = metrics.changes(
                pictures, readings, every, (prior, prior_readings)
            )
        return {
            f"{g}/{name}": value for g, found in groups.items() for name, value in found.items()
        }

    @cached_property
    def _prior(self) -> tuple[Pictures, list[Reading]]:
        self.prior()
        pictures = self.pictures(self.runs / "prior")
        return pictures, self.readers.read(pictures)

    def _within(self, group: Callable[[Trial], Any]) -> list[tuple[int, int]]:
        """List pairs of trials within a group, only trials of one person."""
        pairs = pairs_within([self.trials[i] for i in self.alone], group)
        return [(self.alone[i], self.alone[j]) for i, j in pairs]

    def _split(self, values: list) -> tuple[list, list]:
        alone = set(self.alone)
        pairs = [value for i, value in enumerate(values) if i not in alone]
        return [values[i] for i in self.alone], pairs

    def _fid(self, readings: list[Reading]) -> float:
        """Compare one picture of each noise with renders of the same words.

        The people of a noise take turns.
        """
        members: dict[int, list[int]] = {}
        for place, trial in enumerate(self.trials):
            members.setdefault(trial.noise, []).append(place)
        chosen = [places[noise % len(places)] for noise, places in members.items()]
        return metrics.frechet_distance(
            np.stack([readings[i].features for i in chosen]), self._real_features
        )

    @cached_property
    def _real_features(self) -> np.ndarray:
        first = {trial.noise: trial for trial in self.trials}
        drawn = []
        for seed in range(REAL):
            # Other people than the study's own.
            protocol = dataclasses.replace(self.protocol, seed=self.protocol.seed + 10 + seed)
            drawn.append(redraw(strangers(first.values(), protocol), seed=4 + seed))
        return np.stack([r.features for r in self.readers.read(np.concatenate(drawn))])
