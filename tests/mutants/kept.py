"""Faults in latents that are kept of both flips, and in subjects that are packed."""

LATENTS, EXAMPLES = "moa_jax/data/latents.py", "moa_jax/data/examples.py"
LOADER, MAKING = "moa_jax/data/loader.py", "moa_jax/training/latents.py"
T = "tests/training/test_latents.py::test_"
PACKING, P = "moa_jax/training/packing.py", "tests/training/test_packing.py::test_"
SAME = f"{P}features_are_the_same_whatever_the_share_and_wherever_subjects_are"
BATCH = f"{T}a_batch_differs_by_latents_in_place_of_the_picture"

MUTATIONS = [
    (
        "latents are those of the other flip",
        EXAMPLES,
        "np.array(latents[int(flip)])",
        "np.array(latents[1 - int(flip)])",
        BATCH,
    ),
    (
        "the mirror image's latents are those of the picture upside down",
        MAKING,
        "images[:, :, ::-1] if flip",
        "images[:, ::-1] if flip",
        BATCH,
    ),
    (
        "a record that could not be encoded is trained on with zeros",
        LOADER,
        "faults = faults or (latents.faults(index, size) if latents else [])",
        "pass",
        f"{T}a_record_without_latents_is_bad",
    ),
    (
        "rows and columns of latents change places",
        LATENTS,
        "shape = (size[1] // self._downscale, size[0] // self._downscale,",
        "shape = (size[0] // self._downscale, size[1] // self._downscale,",
        f"{T}each_shape_has_its_latents",
    ),
    (
        "subjects past the share are left out",
        PACKING,
        "jnp.any(jnp.sum(here, axis=1) > first)",
        "jnp.any(jnp.sum(here, axis=1) > slots)",
        SAME,
    ),
    (
        "features go to the slots from which pictures would have come",
        PACKING,
        "back = jnp.argsort(order, axis=1)[..., None]",
        "back = order[..., None]",
        SAME,
    ),
    (
        "every slot is encoded, whatever the share",
        PACKING,
        "jnp.any(jnp.sum(here, axis=1) > first)",
        "jnp.any(jnp.sum(here, axis=1) >= 0)",
        f"{P}the_share_is_encoded_and_more_only_if_a_device_has_more",
    ),
]
