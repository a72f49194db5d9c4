"""Faults in latents that are kept of both flips."""

LATENTS, EXAMPLES = "moa_jax/data/latents.py", "moa_jax/data/examples.py"
LOADER, MAKING = "moa_jax/data/loader.py", "moa_jax/training/latents.py"
T = "tests/training/test_latents.py::test_"
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
]
