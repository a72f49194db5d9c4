"""`python -m moa_jax.evaluation faces`: draw people after prompts, and measure how like they are.

    python -m moa_jax.evaluation faces --base DIR --moa DIR --people FOLDER --out DIR [--clip DIR]
    python -m moa_jax.evaluation faces --compare A B      the folders of two runs

A run stops and resumes at any time: each picture is written with its record, each number as it is
found. Without --moa it is plain Stable Diffusion, which sees nobody: a floor to compare with.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moa_jax.cli import Bar, make_folder, run
from moa_jax.data.images import load_image
from moa_jax.errors import InputError
from moa_jax.evaluation.faces.clip_score import AT_ONCE, ClipScore
from moa_jax.evaluation.faces.drawing import Run, draw, missing
from moa_jax.evaluation.faces.likeness import centre_of, compare, embed_people
from moa_jax.evaluation.faces.measured import Measured
from moa_jax.evaluation.faces.protocol import PROMPTS, Trial, make_trials, read_people, read_prompts
from moa_jax.evaluation.faces.report import (
    HEADS,
    REPORT,
    cells,
    markdown_table,
    picture_record,
    write_report,
    write_sheets,
    write_text,
)
from moa_jax.evaluation.faces.versus import HEADS as VERSUS_HEADS
from moa_jax.evaluation.faces.versus import read_results, versus
from moa_jax.extension import import_plugin
from moa_jax.faces.recognizer import Recognizer, open_recognizer
from moa_jax.method.identity import Identity
from moa_jax.method.source import find_moa
from moa_jax.method.weights import CARD_NAME, WEIGHTS_NAME
from moa_jax.sampling.from_options import load_networks, read_settings
from moa_jax.sampling.options import add_lora, add_networks, add_no_cache, add_sampler
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.sampling.short_forms import read_lora_option

NEEDED = ("base", "people", "out")
VERSUS = "versus.md"
# Options that decide what a picture looks like, besides weights, words and references.
DECIDING = ("seed", "steps", "sampler", "karras", "eta", "guidance_scale", "guidance_rescale")
DECIDING += ("guidance_interval", "moa_strength", "delay", "height", "width", "prediction_type")
DECIDING += ("quantization", "capacity", "skip_below")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(arguments)
    work = _compare if options.compare else _evaluate
    return run(lambda: work(options), stopped="stopped: the same command goes on from here")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.evaluation faces",
        description="Draw people after prompts, and measure identity and prompt.",
    )
    add = parser.add_argument
    add("--people", metavar="FOLDER", help="a picture for each person, or a folder of pictures; "
        "people.jsonl there may give class nouns")  # fmt: skip
    add("--word", default="person", help="class noun of the others (%(default)s)")
    add("--out", help="folder to write to")
    add("--recognizer", action="append", metavar="NAME", help="dlib, facenet[:FILE], "
        "auraface:FILE, or your package.module:Class; give it several times (dlib)")  # fmt: skip
    add("--clip", metavar="FOLDER", help="a complete CLIP, folder or hub id, that measures how "
        "pictures fit their prompts; without it that is not measured")  # fmt: skip
    add("--prompts", type=Path, default=PROMPTS, metavar="FILE", help="JSON; default: 40 and 21")
    add("--pictures", type=int, default=4, help="of each person and prompt (%(default)s)")
    add("--pairs", type=int, help="how many pairs of people; default: all that there are")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--height", type=int, help="in pixels; default: the checkpoint's own size")
    add("--width", type=int, help="likewise")
    add("--batch-size", type=int, help="pictures at once; default: 4 a device")
    add("--compare", nargs=2, metavar=("A", "B"), help="two folders of runs: does B differ from A")
    add_sampler(parser.add_argument_group("how it is drawn").add_argument)
    add("--moa-strength", action="append", default=[], help="as in sample.py")
    networks = parser.add_argument_group("networks").add_argument
    add_networks(networks)
    add_lora(networks)
    add_no_cache(networks)
    parser.set_defaults(controlnet=[])
    options = parser.parse_args(arguments)
    absent = [f"--{name}" for name in NEEDED if not getattr(options, name)]
    if absent and not options.compare:
        parser.error(f"needs {', '.join(absent)}, or --compare A B")
    return options


def _evaluate(options: argparse.Namespace) -> None:
    for module in options.plugin:
        import_plugin(module)
    people = read_people(options.people, options.word)
    prompts = read_prompts(options.prompts)
    trials = make_trials(people, prompts, options.pictures, options.pairs, options.seed)
    recognizers = _recognizers(options.recognizer or ["dlib"])
    asked = [embed_people(each, people) for each in recognizers]  # before hours of drawing
    clip = ClipScore(options.clip) if options.clip else None
    out = make_folder("--out", options.out)
    pipeline = load_networks(options)
    if pipeline.model and pipeline.max_subjects < 2 and options.pairs is None:
        trials = [trial for trial in trials if len(trial.people) == 1]
    run = Run(out / "pictures", options.seed, _record(options, pipeline))
    _draw(options, pipeline, run, trials)
    likeness = [
        dict(_measure(out, run, trials, recognizer, vectors))
        for recognizer, vectors in zip(recognizers, asked, strict=True)
    ]
    scores = dict(_score(out, run, trials, clip)) if clip else {}
    records = [
        picture_record(
            trial,
            {
                each.name: found[trial.name]
                for each, found in zip(recognizers, likeness, strict=True)
            },
            scores.get(trial.name),
        )
        for trial in trials
    ]
    told = {**run.record, "people": len(people), "pictures": options.pictures, "clip": options.clip}
    rows = write_report(out, told, records, recognizers)
    write_sheets(out, trials, run.file)
    # Turned: few rows, but many columns.
    _print(*zip(HEADS, *map(cells, rows), strict=True))
    Console().print(f"wrote {out / REPORT}", highlight=False)


def _recognizers(names: Sequence[str]) -> list[Recognizer]:
    opened = [open_recognizer(name) for name in names]
    told = [each.name for each in opened]
    for name in told:
        if told.count(name) > 1:
            raise InputError(f"--recognizer: two are called {name!r}: measure with one at a time")
    return opened


def _record(options: argparse.Namespace, pipeline: Pipeline) -> dict[str, Any]:
    """Gather what decides the pictures, and what people call it."""
    files: dict[str, Path] = {}
    if options.moa:
        folder = find_moa(options.moa, "--moa")
        files = {name: folder / name for name in (WEIGHTS_NAME, CARD_NAME)}
    files |= {text: Path(read_lora_option(text)[0]) for text in options.lora}
    return {
        "base": options.base,
        "moa": options.moa,
        **{name: getattr(options, name) for name in DECIDING},
        "dtype": pipeline.dtype.name,
        "fingerprints": Identity.of(pipeline.base).fingerprints,
        "files": {
            name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()
        },
    }


def _draw(
    options: argparse.Namespace, pipeline: Pipeline, run: Run, trials: Sequence[Trial]
) -> None:
    todo, size = missing(run, trials), (options.height, options.width)
    with Bar("drawing", len(trials)) as bar:
        bar.show(len(trials) - len(todo))
        settings = read_settings(options)
        draw(pipeline, run, todo, settings, size, options.batch_size, bar.advance)


def _measure(
    out: Path, run: Run, trials: Sequence[Trial], recognizer: Recognizer, vectors: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compare the faces of every picture with the people asked for."""
    judge = [recognizer.name, recognizer.source]
    judge += [part for name, each in vectors.items() for part in (name, each.tobytes())]
    measured = Measured(out / "measured" / f"{recognizer.name}.jsonl", judge)
    centre = centre_of(vectors)
    with Bar(f"faces, by {recognizer.name}", len(trials)) as bar:
        for trial in trials:
            picture = run.picture_key(trial)
            if measured.find(picture) is None:
                asked = [vectors[person.name] for person in trial.people]
                image = load_image(run.file(trial))
                measured.add(picture, compare(recognizer, image, asked, centre))
            bar.advance()
            yield trial.name, measured.find(picture)


def _score(
    out: Path, run: Run, trials: Sequence[Trial], clip: ClipScore
) -> Iterator[tuple[str, float]]:
    """Compare every picture with its prompt."""
    measured = Measured(out / "measured" / "clip.jsonl", [clip.fingerprint])
    todo = [each for each in trials if measured.find(run.picture_key(each)) is None]
    with Bar("prompts, by CLIP", len(trials)) as bar:
        bar.show(len(trials) - len(todo))
        for start in range(0, len(todo), AT_ONCE):
            batch = todo[start : start + AT_ONCE]
            images = [load_image(run.file(trial)) for trial in batch]
            found = clip(images, [trial.caption for trial in batch])
            for trial, value in zip(batch, found, strict=True):
                measured.add(run.picture_key(trial), {"prompt": float(value)})
            bar.advance(len(batch))
    for trial in trials:
        yield trial.name, measured.find(run.picture_key(trial))["prompt"]


def _compare(options: argparse.Namespace) -> None:
    first, second = (read_results(folder) for folder in options.compare)
    told = [
        f"- {name}: {run['moa'] or 'no MoA'} on {run['base']}, {folder}"
        for name, folder, run in zip(
            "AB", options.compare, (first["run"], second["run"]), strict=True
        )
    ]
    Console().print("\n".join(told), highlight=False, markup=False)
    rows = versus(first, second)
    _print(VERSUS_HEADS, *rows)
    if options.out:
        file = make_folder("--out", options.out) / VERSUS
        lines = ["# Two runs compared", "", "B minus A; p of tests over people."]
        write_text(file, [*lines, *told, "", *markdown_table(VERSUS_HEADS, rows)])


def _print(heads: Sequence[str], *rows: Sequence[str]) -> None:
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
