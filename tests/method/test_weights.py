"""The file that trained weights travel in."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.config import Config, MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.model import build
from moa_jax.method.trained import leaf_paths, learning_mask
from moa_jax.method.weights import (
    Identity,
    MoaCard,
    load_moa,
    read_carried,
    read_moa_card,
    save_moa,
)

METHOD = MethodConfig(image_encoder_layers=2)
FROZEN = MethodConfig(image_encoder_layers=0)


@pytest.fixture(scope="module")
def built(tiny_folder):
    base = load_stable_diffusion(str(tiny_folder))
    _, params = build(base, METHOD, dtype=jnp.float32, key=jax.random.key(0))
    return params, Identity.of(base)


@pytest.fixture
def saved(tmp_path, built):
    """(folder, trained leaves): every one different from what a fresh model has."""
    params, identity = built
    mask = leaf_paths(learning_mask(params, METHOD))
    trained = {path: leaf + 1.0 for path, leaf in leaf_paths(params).items() if mask[path]}
    save_moa(tmp_path, trained, MoaCard(Config(method=METHOD), identity, step=7))
    return tmp_path, trained


def test_saved_and_loaded_is_the_same_to_the_bit(built, saved):
    params, identity = built
    folder, trained = saved
    loaded, fresh = leaf_paths(load_moa(folder, params, identity)), leaf_paths(params)
    assert loaded.keys() == fresh.keys()
    for path, leaf in loaded.items():
        np.testing.assert_array_equal(leaf, trained.get(path, fresh[path]))
    card = read_moa_card(folder)
    assert card == MoaCard(Config(method=METHOD), identity, 7)


def test_the_file_holds_what_learns_and_nothing_of_the_base(saved):
    with safe_open(saved[0] / "moa.safetensors", framework="numpy") as file:
        keys = set(file.keys())
    assert keys == set(saved[1])
    assert not [key for key in keys if key.startswith(("vae", "text_encoder", "unet.conv"))]


def test_weights_take_the_dtype_of_the_model_they_are_put_in(built, saved):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), built[0])
    loaded = load_moa(saved[0], params, built[1])
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(jnp.bfloat16)}


def test_more_learning_layers_than_there_are_is_refused(built):
    with pytest.raises(InputError, match="image_encoder_layers=9.*has 3 layers"):
        learning_mask(built[0], MethodConfig(image_encoder_layers=9))


def continue_from(folder, built, output):
    """Save what a run from the weights in `folder` leaves, whose image encoder is frozen."""
    params, identity = built
    mask = learning_mask(params, FROZEN)
    carried = read_carried(folder, mask)
    loaded, learning = leaf_paths(load_moa(folder, params, identity)), leaf_paths(mask)
    trained = {path: leaf + 1.0 for path, leaf in loaded.items() if learning[path]}
    save_moa(output, trained, MoaCard(Config(method=FROZEN), identity, step=9), carried)


def encoder_of(params):
    return {path: leaf for path, leaf in leaf_paths(params).items() if path.startswith("image")}


def test_an_image_encoder_tuned_by_an_earlier_run_goes_with_every_later_one(built, saved, tmp_path):
    params, identity = built
    tuned = encoder_of(load_moa(saved[0], params, identity))
    assert any(np.any(leaf != encoder_of(params)[path]) for path, leaf in tuned.items())
    continue_from(saved[0], built, tmp_path / "second")
    continue_from(tmp_path / "second", built, tmp_path / "third")
    for later in ("second", "third"):
        found = encoder_of(load_moa(tmp_path / later, params, identity))
        for path, leaf in tuned.items():
            np.testing.assert_array_equal(found[path], leaf)


def test_what_is_carried_in_is_kept_in_the_precision_it_has(built, saved, tmp_path):
    bfloat16 = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), built[0])
    continue_from(saved[0], (bfloat16, built[1]), tmp_path / "second")
    kept = read_carried(tmp_path / "second", learning_mask(built[0], FROZEN))
    assert kept and all(array.dtype == np.float32 for array in kept.values())
    for path, array in kept.items():
        np.testing.assert_array_equal(array, saved[1][path])


def test_the_card_says_what_was_carried_in_and_a_loss_of_it_is_found(built, saved, tmp_path):
    assert "carried" not in json.loads((saved[0] / "moa.json").read_text())
    continue_from(saved[0], built, tmp_path / "second")
    kept = [path for path in saved[1] if path.startswith("image_encoder")]
    assert sorted(read_moa_card(tmp_path / "second").carried) == sorted(kept)
    file = tmp_path / "second" / "moa.safetensors"
    arrays = load_file(file)
    del arrays[kept[0]]
    save_file(arrays, file)
    with pytest.raises(InputError, match=f"1 faults.*missing {kept[0]}"):
        load_moa(tmp_path / "second", *built)


def test_a_file_of_an_earlier_version_holds_the_image_encoders_head_too(built, saved):
    """Such a card says nothing of it."""
    params, identity = built
    head = [path for path in encoder_of(params) if "post_layernorm" in path or "visual_p" in path]
    arrays = {path: np.asarray(leaf) for path, leaf in saved[1].items()}
    arrays |= {path: np.asarray(leaf_paths(params)[path]) + 2.0 for path in head}
    save_file(arrays, saved[0] / "moa.safetensors")
    loaded = leaf_paths(load_moa(saved[0], params, identity))
    assert len(head) == 3
    for path in arrays:
        np.testing.assert_array_equal(loaded[path], arrays[path])


def test_an_image_encoder_is_identified_by_the_weights_it_has(built, saved):
    identity, mask = built[1], learning_mask(built[0], FROZEN)
    carried = read_carried(saved[0], mask)
    assert identity.carrying({}, "run") == identity
    one = identity.carrying(carried, "run")
    assert one == identity.carrying(dict(reversed(carried.items())), "run")
    path = next(iter(carried))
    other = identity.carrying(carried | {path: np.nextafter(carried[path], np.inf)}, "run")
    prints = [each.fingerprints["image_encoder"] for each in (identity, one, other)]
    assert len(set(prints)) == 3
    with pytest.raises(InputError, match="on the image_encoder of .* with that of 'run'"):
        one.require(other, "a checkpoint")


def test_all_that_differs_of_another_base_is_listed(built, saved):
    params, identity = built
    changed = dict.fromkeys(("unet", "vae", "image_encoder"), "f" * 64)
    other = dataclasses.replace(
        identity, base="b", image_encoder="i", fingerprints=identity.fingerprints | changed
    )
    message = "the unet of .*the vae of .*the image_encoder of .*but 'i' has another"
    with pytest.raises(InputError, match=message) as refused:
        load_moa(saved[0], params, other)
    assert "text_encoder" not in str(refused.value)
    with pytest.warns(UserWarning, match=message):
        load_moa(saved[0], params, other, allow_other_base=True)


@pytest.mark.parametrize("part", ["unet", "image_encoder"])
def test_another_base_is_refused_by_component(built, saved, part):
    params, identity = built
    changed = identity.fingerprints | {part: "f" * 64}
    other = dataclasses.replace(identity, base="b", image_encoder="i", fingerprints=changed)
    name = "i" if part == "image_encoder" else "b"
    with pytest.raises(InputError, match=f"trained on the {part} of .*but '{name}' has another"):
        load_moa(saved[0], params, other)


def test_tensors_that_do_not_fit_are_all_listed(built, saved):
    folder, trained = saved
    arrays = {path: np.asarray(leaf) for path, leaf in trained.items()}
    (missing, misshaped), extra = sorted(arrays)[:2], "unet.nonsense.kernel"
    del arrays[missing]
    arrays[misshaped] = np.zeros(5, np.float32)
    arrays[extra] = np.zeros(1, np.float32)
    save_file(arrays, folder / "moa.safetensors")
    with pytest.raises(InputError) as raised:
        load_moa(folder, *built)
    for text in ("3 faults", f"missing {missing}", f"{misshaped} has shape (5,)", extra):
        assert text in str(raised.value)


def damage_weights(folder):
    path = folder / "moa.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_card(folder):
    (folder / "moa.json").write_text('{"format_version": 1, "conf')


def lose_a_key(folder):
    card = json.loads((folder / "moa.json").read_text())
    del card["identity"]
    (folder / "moa.json").write_text(json.dumps(card))


def write_a_newer_format(folder):
    card = json.loads((folder / "moa.json").read_text())
    (folder / "moa.json").write_text(json.dumps(card | {"format_version": 99}))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (damage_weights, "moa.safetensors' is truncated or damaged"),
        (damage_card, "moa.json' is damaged"),
        (lose_a_key, "moa.json' is damaged"),
        (write_a_newer_format, "format_version 99"),
        (lambda folder: (folder / "moa.safetensors").unlink(), "moa.safetensors' is missing"),
        (lambda folder: (folder / "moa.json").unlink(), "moa.json' is missing"),
    ],
)
def test_a_damaged_folder_is_refused_by_file(built, saved, fault, message):
    fault(saved[0])
    with pytest.raises(InputError, match=message):
        load_moa(saved[0], *built)


def test_a_crash_between_the_two_files_is_found(built, saved, monkeypatch):
    """In whichever order they are replaced."""
    folder, trained = saved
    replace, replaced = os.replace, []

    def crash_at_the_second(source, target):
        if replaced:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr("moa_jax.method.weights.os.replace", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        save_moa(folder, trained, MoaCard(Config(method=METHOD), built[1], step=8))
    assert len(replaced) == 1
    for read in (read_moa_card, lambda folder: load_moa(folder, *built)):
        with pytest.raises(InputError, match=r"step 7.* is not the card .*step 8.*start the train"):
            read(folder)


def test_an_older_file_beside_a_newer_card_is_found(built, saved, tmp_path):
    folder, trained = saved
    older = shutil.copy(folder / "moa.safetensors", tmp_path / "older")
    save_moa(folder, trained, MoaCard(Config(method=METHOD), built[1], step=8))
    assert read_moa_card(folder).step == 8
    shutil.copy(older, folder / "moa.safetensors")
    with pytest.raises(InputError, match=r"step 8.* is not the card .*step 7"):
        read_moa_card(folder)


def test_a_card_may_be_laid_out_otherwise(saved):
    card = json.loads((saved[0] / "moa.json").read_text())
    (saved[0] / "moa.json").write_text(json.dumps(dict(reversed(card.items()))))
    assert read_moa_card(saved[0]).step == 7


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="is missing: give the folder that train.py wrote"):
        read_moa_card(tmp_path / "none")


def test_a_single_number_is_saved_without_an_axis(tmp_path, built):
    trained = {"unet.personalized.scale": np.float32(2.0), "unet.turned": np.ones((2, 3)).T}
    save_moa(tmp_path, trained, MoaCard(Config(method=METHOD), built[1], step=1))
    shapes = {path: array.shape for path, array in load_file(tmp_path / "moa.safetensors").items()}
    assert shapes == {"unet.personalized.scale": (), "unet.turned": (3, 2)}
