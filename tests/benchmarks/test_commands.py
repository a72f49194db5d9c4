"""Each benchmark as a user runs it, on the toy world or at tiny size."""

import json
from importlib.util import find_spec

import pytest

from benchmarks import attention, loading, sampling, training

KEYS = {"job", "needs", "does", "times", "ratios"}
QUICK = ["--repeats", "1"]


def rows(folder, name):
    """The rows of a benchmark, by their job."""
    content = json.loads((folder / f"{name}.json").read_text())
    assert all(row.keys() >= KEYS for row in content["rows"])
    return {row["job"]: row for row in content["rows"]}, content["notes"]


def test_attention_has_a_row_for_each_level_and_context(tmp_path):
    arguments = ["--pixels", "64", "--batch", "1", "--no-peers", "--out", str(tmp_path)]
    assert attention.main([*QUICK, *arguments]) == 0
    found, _ = rows(tmp_path, "attention")
    assert len(found) == 8
    row = found["64 x 77, 8 heads of 40, batch 1"]
    assert set(row["times"]) == {"auto", "xla", "blocked", "looped"}
    assert row["needs"]["flops"] == 2 * 2 * 64 * 77 * 8 * 40
    assert row["needs"]["bytes"] == 4 * 8 * 40 * (64 + 77 + 77 + 64)


def test_drawing_has_its_parts_and_their_sum(tmp_path):
    arguments = ["--size", "toy", "--pixels", "64", "--batch", "1", "--steps", "2", "--no-moa"]
    assert sampling.main([*QUICK, *arguments, "--no-peers", "--out", str(tmp_path)]) == 0
    found, notes = rows(tmp_path, "sampling")
    unet, vae, call = (found[f"{job}, 64 px, batch 1"] for job in ("unet", "vae", "call"))
    for kind in ("needs", "does"):
        flops = [row[kind]["flops"] for row in (unet, vae, call)]
        text = flops[2] - 2 * flops[0] - flops[1]
        assert 0 < text < flops[2] / 2
    # Both count the same products: one in the networks as written, one in the compiled programs.
    assert unet["does"]["flops"] == pytest.approx(unet["needs"]["flops"], rel=0.02)
    assert vae["does"]["flops"] == pytest.approx(vae["needs"]["flops"], rel=0.02)
    assert unet["memory"]["ours"] > 0
    assert notes == ["no peer: --no-peers"]


def test_loading_says_what_reading_takes_and_the_peak(tmp_path):
    assert loading.main([*QUICK, "--size", "toy", "--out", str(tmp_path)]) == 0
    found, notes = rows(tmp_path, "loading")
    row = found["load toy"]
    assert set(row["times"]) == {"load", "read"}
    assert row["needs"]["bytes"] < row["weight_bytes"]  # half precision in the file
    assert row["peak_over_weights"] > 1
    assert "importing took" in notes[0]


@pytest.mark.slow
def test_drawing_compares_with_diffusers_and_moa_with_plain(tmp_path):
    pytest.importorskip("torch")
    arguments = ["--size", "tiny", "--pixels", "64", "--batch", "1", "--steps", "2"]
    assert sampling.main([*QUICK, *arguments, "--out", str(tmp_path)]) == 0
    found, notes = rows(tmp_path, "sampling")
    assert all("diffusers" in row["times"] for job, row in found.items() if "MoA" not in job)
    assert set(found["MoA unet, 64 px, batch 1"]["ratios"]) == {"ours"}
    assert not notes


@pytest.mark.slow
@pytest.mark.skipif(find_spec("grain") is None, reason="training reads with grain")
def test_training_gives_a_rate_and_a_share_of_the_measured_peak(tmp_path):
    arguments = ["--size", "toy", "--pixels", "64", "--batch", "2", "--matrix", "256"]
    assert training.main([*QUICK, *arguments, "--out", str(tmp_path)]) == 0
    found, _ = rows(tmp_path, "training")
    row = found["step, 64 px, batch 2"]
    seconds = row["times"]["ours"]["median"]
    assert row["images_per_second"] == pytest.approx(2 / seconds)
    assert row["mfu"] == pytest.approx(row["needs"]["flops"] / seconds / row["peak_flops"])
    assert row["does"]["flops"] >= 0.9 * row["needs"]["flops"]


def test_a_size_that_is_none_is_refused_in_words(capsys):
    assert sampling.main(["--size", "huge"]) == 2
    assert "--size='huge': must be sd15, tiny, toy" in capsys.readouterr().err
