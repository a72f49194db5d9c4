"""Faults in data that stays on the devices."""

RESIDENT = "moa_jax/training/resident.py"
T = "tests/training/test_resident.py::test_"
EPOCH = f"{T}an_epoch_is_every_example_of_the_loader_once"
PLACE = f"{T}epochs_differ_in_their_order_and_a_place_is_restored"
OFTEN = f"{T}captions_and_subjects_are_left_out_as_often_as_asked_for"
FRONT = f"{T}subjects_that_stay_move_to_the_front_with_all_that_is_theirs"
EMPTY = f"{T}a_caption_that_is_left_out_is_empty_and_without_subjects"

MUTATIONS = [
    (
        "subjects outside of the picture are there",
        RESIDENT,
        "enumerate(record.subjects) if subject.mask.any()]",
        "enumerate(record.subjects)]",
        EPOCH,
    ),
    ("every epoch has one order", RESIDENT, "[self._seed, epoch]", "[self._seed, 0]", PLACE),
    (
        "a batch's dropout is that of the first",
        RESIDENT,
        "jax.random.fold_in(self._key, self._place)",
        "jax.random.fold_in(self._key, 0)",
        PLACE,
    ),
    (
        "subjects are left out as often as captions",
        RESIDENT,
        "of_subjects, subject_dropout",
        "of_subjects, condition_dropout",
        OFTEN,
    ),
    (
        "a left out caption keeps its subjects",
        RESIDENT,
        "kept &= present & said[:, None]",
        "kept &= present",
        EMPTY,
    ),
    (
        "subjects stay in their places",
        RESIDENT,
        "jnp.argsort(~kept,",
        "jnp.argsort(kept & False,",
        FRONT,
    ),
    ("subjects change places", RESIDENT, "axis=1, stable=True)", "axis=1, descending=True)", FRONT),
    (
        "who is left out keeps the features",
        RESIDENT,
        "jnp.where(kept.reshape(shape), array,",
        "jnp.where(kept.reshape(shape) | True, array,",
        FRONT,
    ),
]
