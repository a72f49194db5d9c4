"""Drawing: what is drawn again and what is not, and shares of a batch on several devices."""

import numpy as np
import pytest
from PIL import Image

from moa_jax import Pipeline
from moa_jax.errors import InputError
from moa_jax.evaluation.faces import drawing
from moa_jax.evaluation.faces.drawing import Run, draw, missing
from moa_jax.evaluation.faces.protocol import Person, Prompt, Trial
from moa_jax.sampling.record import read_record
from moa_jax.sampling.settings import Settings
from tests.personal import portrait

SETTINGS = Settings(num_inference_steps=2, guidance_scale=1.0)
PLACES = [Prompt("a {person} in the snow", "context", i, i) for i in range(2)]
TWO = Prompt("a {first} and a {second}", "pairs", 0, 2)


@pytest.fixture
def trials(tmp_path):
    people = []
    for i, name in enumerate(("ann", "bob")):
        portrait(i).save(tmp_path / f"{name}.png")
        people.append(Person(name, "man", (tmp_path / f"{name}.png",)))
    alone = [Trial((who,), prompt, 0) for who in people for prompt in PLACES]
    return [*alone, Trial(tuple(people), TWO, 0)]


def pixels(run, trial):
    return np.asarray(Image.open(run.file(trial)).convert("RGB"), np.int16)


def test_what_is_drawn_is_not_drawn_again(personal, trials, tmp_path):
    run = Run(tmp_path / "out", 0, {"steps": 2, "moa": "here"})
    counted = []
    draw(personal, run, trials[:3], SETTINGS, batch_size=1, on_pictures=counted.append)
    assert counted == [1, 1, 1] and missing(run, trials) == trials[3:]
    assert missing(Run(tmp_path / "out", 0, {"steps": 2, "moa": "moved"}), trials) == trials[3:]
    assert read_record(run.file(trials[0]))["prompt"] == "a man <|image|> in the snow"
    with pytest.raises(InputError, match="drawn by other weights or settings.*another --out"):
        missing(Run(tmp_path / "out", 0, {"steps": 3, "moa": "here"}), trials)


def test_a_reference_that_changed_is_drawn_again(personal, trials, tmp_path):
    run = Run(tmp_path / "out", 0, {})
    draw(personal, run, trials[:3], SETTINGS, batch_size=1)
    portrait(7).save(trials[0].people[0].pictures[0])
    drawing._of_file.cache_clear()  # another process would have read it anew
    assert missing(run, trials[:3]) == trials[:2]


def test_noise_is_that_of_the_prompt_and_not_of_the_person(plain, trials, tmp_path):
    run = Run(tmp_path / "one", 0, {})
    draw(plain, run, trials, SETTINGS, batch_size=1)
    # Plain Stable Diffusion sees nobody: people differ by their noise alone, which is the same.
    ann, bob = (pixels(run, trials[i]) for i in (0, 2))
    assert np.array_equal(ann, bob) and not np.array_equal(ann, pixels(run, trials[1]))
    other = Run(tmp_path / "other", 1, {})
    draw(plain, other, trials[:1], SETTINGS, batch_size=1)
    assert np.abs(pixels(other, trials[0]) - ann).mean() > 1


@pytest.mark.slow  # tests/sampling/test_spread.py draws less
def test_a_batch_is_shared_by_the_devices_and_changes_nothing(
    tiny_folder, moa_folder, personal, trials, tmp_path
):
    one = Run(tmp_path / "one", 0, {})
    draw(personal, one, trials, SETTINGS, batch_size=1)
    spread = Pipeline.from_pretrained(tiny_folder, moa_folder)
    shares = []

    def fetch(arrays, own=spread.fetch):
        shares.append({shard.data.shape[0] for shard in arrays[0].addressable_shards})
        return own(arrays)

    spread.fetch = fetch
    several = Run(tmp_path / "several", 0, {})
    draw(spread, several, trials, SETTINGS, batch_size=4)
    assert shares == [{1}, {1}]  # 4 pictures on 4 of the 8 devices; then the pair, filled up
    for trial in trials:
        assert np.abs(pixels(one, trial) - pixels(several, trial)).max() <= 1


def test_a_batch_of_none_is_refused(plain, trials, tmp_path):
    with pytest.raises(InputError, match="--batch-size -1: must be 1"):
        draw(plain, Run(tmp_path, 0, {}), trials, SETTINGS, batch_size=-1)
