"""Each benchmark as a user runs it, on the toy world or at tiny size."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from scipy.ndimage import correlate

from benchmarks import attention, convolutions, loading, sampling, training

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


def test_convolutions_have_a_row_for_each_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(convolutions, "LAYERS", ((0, 16, 8, 3), (3, 16, 8, 3), (1, 16, 8, 1)))
    arguments = ["--pixels", "64", "--batch", "1", "--no-peers", "--out", str(tmp_path)]
    assert convolutions.main([*QUICK, *arguments]) == 0
    found, _ = rows(tmp_path, "convolutions")
    whole, odd, small = (set(row["times"]) for row in found.values())
    assert small == {"ours", "XLA's own choice", "channels first", "one product"}
    assert whole - odd == {"Winograd"}
    assert odd - small == {"nine products"}
    row = found["4 x 4, 16 to 8, 1 x 1, batch 1"]
    assert row["needs"]["flops"] == 2 * 4 * 4 * 16 * 8


@pytest.mark.parametrize("size", [1, 3])
def test_every_formulation_of_a_convolution_gives_the_same(size):
    rng = np.random.default_rng(0)
    picture = rng.standard_normal((2, 6, 4, 5), dtype=np.float32)
    kernel = rng.standard_normal((size, size, 5, 7), dtype=np.float32)
    # The sum over the kernel's places and the channels, as scipy knows it.
    expected = np.stack(
        [
            [
                sum(correlate(row[..., c], kernel[..., c, out], mode="constant") for c in range(5))
                for out in range(7)
            ]
            for row in picture
        ]
    ).transpose(0, 2, 3, 1)
    ways = [convolutions.convolve, convolutions.channels_first, convolutions.one_product]
    found = [way(picture, kernel) for way in ways]
    if size == 3:
        found.append(convolutions.nine_products(picture, kernel))
        found.append(convolutions.winograd(picture, convolutions.transformed(kernel)))
    for result in found:
        np.testing.assert_allclose(result, expected, atol=1e-4)


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


@pytest.mark.slow
def test_loading_says_what_reading_takes_and_the_peak(tmp_path):
    assert loading.main([*QUICK, "--size", "toy", "--out", str(tmp_path)]) == 0
    found, notes = rows(tmp_path, "loading")
    row = found["load toy"]
    assert set(row["times"]) == {"load", "read"}
    assert row["needs"]["bytes"] < row["weight_bytes"]  # half precision in the file
    assert row["peak_over_weights"] > 1
    assert "importing took" in notes[0]


@pytest.mark.slow
@pytest.mark.nightly  # its parts are tried one by one
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
