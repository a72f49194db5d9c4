"""Records: given back for the study and the recipe they were made with, and for no other."""

import numpy as np

from moa_jax.evaluation.toy.records import Records

RECIPE = {"method.router_loss_weight": "0.1"}


def test_a_record_holds_for_its_study_and_recipe(tmp_path):
    Records(tmp_path / "rows", "one").save("moa-0", RECIPE, {"identity": 0.5})
    assert Records(tmp_path / "rows", "one").find("moa-0", RECIPE) == ({"identity": 0.5}, "")
    assert Records(tmp_path / "rows", "other").find("moa-0", RECIPE) is None
    assert Records(tmp_path / "rows", "one").find("moa-0", {}) is None
    assert Records(tmp_path / "rows", "one").find("moa-1", RECIPE) is None


def test_a_record_made_before_there_was_an_option_has_its_default(tmp_path):
    Records(tmp_path, "one").save("moa-0", RECIPE, {"identity": 0.5})
    now = Records(tmp_path, "one", {"method.new": "0", "method.router_loss_weight": "0.5"})
    assert now.find("moa-0", RECIPE | {"method.new": "0"})
    assert now.find("moa-0", RECIPE | {"method.new": "1"}) is None
    assert now.find("moa-0", {"method.router_loss_weight": "0.5"}) is None
    assert Records(tmp_path, "one").find("moa-0", RECIPE | {"method.new": "0"}) is None


def test_pictures_come_back_as_they_were(tmp_path):
    records = Records(tmp_path, "one")
    strip = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    records.save("moa-0", RECIPE, {}, strip)
    records.save("moa-1", RECIPE, {})
    np.testing.assert_array_equal(records.strip("moa-0"), strip)
    assert records.strip("moa-1") is None
