"""MoA weights go to the hub and come back as they were, and every refusal is put into words."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from moa_jax import InputError, MoAWeights, Pipeline
from tests.hub.stand_in import TOKEN, Repository
from tests.personal import MARKED, pixels, portrait

NAME = "me/moa-tiny"
TOLD = {"licence": "mit", "data": "Noise, drawn by a program."}
FILES = {"moa.json", "moa.safetensors", "README.md"}
ROOT = Path(__file__).parents[2]


def content(folder):
    return {name: (folder / name).read_bytes() for name in ("moa.json", "moa.safetensors")}


@pytest.fixture
def pushed(hub, moa_folder):
    MoAWeights.from_pretrained(moa_folder).push_to_hub(NAME, **TOLD)
    return hub.repositories[NAME]


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_a_push_is_one_commit_of_three_files_as_they_are(hub, moa_folder, tmp_path):
    (moa_folder / "samples").mkdir(exist_ok=True)
    (moa_folder / "samples" / "portrait.png").write_bytes(b"somebody's face")
    weights = MoAWeights.from_pretrained(moa_folder)
    url = weights.push_to_hub(NAME, private=True, commit_message="First weights", **TOLD)
    repository = hub.repositories[NAME]
    sha, files = repository.files("main")
    assert url == f"{hub.url}/{NAME}/commit/{sha}"
    assert repository.private and repository.messages == ["initial commit", "First weights"]
    assert set(files) == FILES | {".gitattributes"}
    assert {name: files[name] for name in content(moa_folder)} == content(moa_folder)
    assert list(hub.objects.values()) == [files["moa.safetensors"]]  # by LFS, the rest without
    assert ModelCard(files["README.md"].decode()).data.license == "mit"


def test_weights_from_the_hub_are_the_same_bytes_and_draw_the_same_picture(
    pushed, moa_folder, tiny_folder, personal
):
    again = MoAWeights.from_pretrained(NAME)
    assert content(again.folder) == content(moa_folder)
    assert again.card == MoAWeights.from_pretrained(moa_folder).card
    options = {"subjects": [portrait(0), portrait(1)], "num_inference_steps": 4, "num_images": 2}
    drawn = Pipeline.from_pretrained(tiny_folder, f"{NAME}@main")(MARKED, **options)
    np.testing.assert_array_equal(pixels(drawn), pixels(personal(MARKED, **options)))


def test_branches_and_pull_requests_leave_the_main_branch_alone(hub, pushed, moa_folder):
    weights, before = MoAWeights.from_pretrained(moa_folder), pushed.refs["main"]
    weights.push_to_hub(NAME, branch="second", **TOLD | {"data": "More noise."})
    proposed = weights.push_to_hub(NAME, create_pr=True, **TOLD | {"data": "Other noise."})
    assert proposed.pr_url == f"{hub.url}/{NAME}/discussions/1"
    for revision, data in {"second": "More noise.", "refs/pr/1": "Other noise."}.items():
        assert data in pushed.files(revision)[1]["README.md"].decode()
    assert pushed.refs["main"] == before
    weights.push_to_hub(NAME, branch="second", **TOLD)  # which is there by now
    assert TOLD["data"] in pushed.files("second")[1]["README.md"].decode()


@pytest.mark.parametrize(
    ("name", "told", "words"),
    [
        (NAME, {}, "licence is missing"),
        (NAME, {"licence": "mit", "data": " "}, "data is missing"),
        ("others/moa", TOLD, r"repo_id='others/moa'.*may not.*HTTP 403.*token"),
        ("moa", TOLD, "repo_id='moa' is no id of the Hugging Face hub: owner/name"),
        (NAME, TOLD | {"licence": "none-such"}, "must be one of .apache-2.0, mit, other"),
        (NAME, TOLD | {"evaluation": "nowhere.json"}, "evaluation='nowhere.json' cannot be read"),
    ],
)
def test_a_push_that_is_refused_says_why(hub, moa_folder, name, told, words):
    weights = MoAWeights.from_pretrained(moa_folder)
    with pytest.raises(InputError, match=words):
        weights.push_to_hub(name, **told)
    assert not hub.objects  # before any weights were sent


def test_a_push_without_a_right_token_asks_to_log_in(hub, moa_folder, monkeypatch):
    weights = MoAWeights.from_pretrained(moa_folder)
    assert "hf auth login" in refusal(weights.push_to_hub, NAME, token="hf_wrong", **TOLD)
    hub.fails = {"/commit/": 503}
    assert "fault of its own (HTTP 503)" in refusal(weights.push_to_hub, NAME, **TOLD)


def test_saved_weights_are_the_same_and_load(moa_folder, tmp_path):
    weights = MoAWeights.from_pretrained(moa_folder)
    weights.save_pretrained(tmp_path / "saved", **TOLD)
    assert {path.name for path in (tmp_path / "saved").iterdir()} == FILES
    assert content(tmp_path / "saved") == content(moa_folder)
    assert MoAWeights.from_pretrained(tmp_path / "saved").card == weights.card
    assert ModelCard.load(tmp_path / "saved" / "README.md").data.license == "mit"
    (tmp_path / "saved" / "README.md").write_text("mine")
    MoAWeights.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "README.md").read_text() == "mine"


def test_saving_pushes_where_asked_to(hub, moa_folder, tmp_path):
    weights = MoAWeights.from_pretrained(moa_folder)
    weights.save_pretrained(tmp_path / "both", push_to_hub=True, repo_id=NAME, **TOLD)
    assert (tmp_path / "both" / "moa.json").is_file() and NAME in hub.repositories


def test_another_models_folder_is_not_written_into(moa_folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = MoAWeights.from_pretrained(moa_folder)
    assert "another model's" in refusal(weights.save_pretrained, tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"


def test_damaged_weights_are_not_taken(moa_folder, tmp_path):
    MoAWeights.from_pretrained(moa_folder).save_pretrained(tmp_path)
    file = tmp_path / "moa.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "truncated or damaged" in refusal(MoAWeights, tmp_path)
    file.unlink()
    assert "is missing" in refusal(MoAWeights, tmp_path)


def test_a_downloaded_card_runs_no_code(pushed, tmp_path, monkeypatch):
    """A variant of another module is refused, unless this program has imported it itself."""
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nMine = None\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    files = pushed.files("main")[1]
    card = files["moa.json"].replace(b'"mixture": "moa"', b'"mixture": "trap:Mine"')
    assert card != files["moa.json"]
    pushed.commit("main", {"moa.json": card})
    assert "a file must not run any" in refusal(MoAWeights.from_pretrained, NAME)
    assert not (tmp_path / "sprung").exists()


def test_the_commands_work_as_a_user_types_them(hub, moa_folder, tmp_path):
    """In processes of their own, which know the hub by variables alone."""
    variables = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
    }

    def run(*command):
        command = [sys.executable, "-m", "moa_jax.hub", *map(str, command)]
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
        )

    told = ["--licence", "mit", "--data", "Noise."]
    done = run("push", moa_folder, NAME, *told, "--private", "--message", "By hand")
    assert done.returncode == 0, done.stderr
    sha, files = hub.repositories[NAME].files("main")
    assert done.stdout.strip() == f"{hub.url}/{NAME}/commit/{sha}"
    assert hub.repositories[NAME].private and hub.repositories[NAME].messages[-1] == "By hand"
    assert "Traceback" not in done.stderr
    shown = run("card", NAME, "--repo", NAME, *told)
    assert shown.stdout == files["README.md"].decode() + "\n", shown.stderr
    missing = run("card", "me/none")
    assert missing.returncode == 2 and "source='me/none' is not a folder here" in missing.stderr
    assert "there is no such repository, or it is private" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_a_repository_of_something_else_is_refused(hub):
    hub.repositories["me/other"] = other = Repository()
    other.commit("main", {"model.safetensors": b"x", "config.json": b"{}"})
    words = refusal(MoAWeights.from_pretrained, "me/other")
    assert "source='me/other' has no moa.json and no moa.safetensors" in words
