"""Several trainings of a table at the same time, each in a process of its own.

A training of the toy world fills a small part of a GPU, so that many fit on one.
"""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moa_jax.cli import Bar
from moa_jax.errors import InputError
from moa_jax.evaluation.toy.rows import Training, ensure_encoded
from moa_jax.evaluation.toy.study import Study


def measure_at_once(
    study: Study,
    trainings: Sequence[Training],
    jobs: int,
    command: Sequence[str],
    config: str,
    extra: Sequence[str] = (),
) -> None:
    """Train, draw and read so many rows at once; each process leaves its record.

    Args:
        trainings: those that are missing.
        jobs: number of processes at once.
        command: measures one of them, if its row and its seed are added.
        config: file of the configuration.
        extra: overrides that all rows share.

    Raises:
        InputError: some failed; the message names them and their logs.
    """
    # First one training of every row: whatever is stopped early has something of everything.
    trained = sorted((each for each in trainings if each.row.seeds), key=lambda each: each.seed)
    if not trained:
        return
    # What several processes read must be there before they begin.
    for row in {each.row.name: each.row for each in trained}.values():
        ensure_encoded(row, config, extra)
    study.renders()
    study.prior()
    commands = {
        each.name: [*command, f"--rows={each.row.name}", f"--seed={each.seed}"] for each in trained
    }
    with Bar(f"training and drawing, {jobs} at once", len(commands)) as bar:
        side_by_side(commands, jobs, study.runs / "logs", bar.show)


def side_by_side(
    commands: Mapping[str, Sequence[str]],
    jobs: int,
    logs: Path,
    on_end: Callable[[int, int], None],
) -> None:
    """Run commands, so many at once, and wait for all of them.

    Args:
        commands: by name; what each prints is kept in `logs/NAME.txt`.
        jobs: number of processes at once.
        on_end: called with the number of commands that have ended, and the number of all.

    Raises:
        InputError: some failed; the message names them and their logs. The others did their work.
    """
    logs.mkdir(parents=True, exist_ok=True)
    ended = 0

    def one(name: str) -> int:
        with (logs / f"{name}.txt").open("w", encoding="utf-8") as log:
            # Without an input a child asks nothing; it writes its own progress into the log.
            return subprocess.run(
                commands[name],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode

    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        for name, code in zip(commands, pool.map(one, commands), strict=True):
            ended += 1
            on_end(ended, len(commands))
            if code:
                failed.append(f"{name} (exit code {code}, {logs / name}.txt)")
    if failed:
        raise InputError(f"{len(failed)} of {len(commands)} failed: {', '.join(failed)}")
