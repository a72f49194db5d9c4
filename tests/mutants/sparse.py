"""Faults in sparse routing: which pixels are computed, and what becomes of the others."""

SPARSE, MIXTURE = "moa_jax/method/sparse.py", "moa_jax/method/mixture.py"
ATTENTION, STUDY = "moa_jax/backbone/attention.py", "moa_jax/evaluation/toy/study.py"
T, S = "tests/method/test_sparse.py::test_", "tests/sampling/test_sparse.py::test_"
PIXELS = f"{T}the_pixels_of_most_weight_are_the_experts_and_the_rest_the_priors"
BELOW = f"{T}a_picture_below_the_threshold_is_the_priors_and_its_neighbour_unchanged"
NOBODY = f"{T}an_expert_that_nobody_needs_is_not_computed"
SEVERAL = f"{T}several_experts_have_pixels_of_their_own"

MUTATIONS = [
    ("the pixels of least weight are computed", SPARSE, "top_k(flat,", "top_k(-flat,", PIXELS),
    ("a share of the pixels is rounded down", SPARSE, "math.ceil", "math.floor", PIXELS),
    (
        "what is left out is nobody's",
        SPARSE,
        "prior = jnp.where(untouched, routing[..., :1], prior)",
        "prior = routing[..., :1]",
        PIXELS,
    ),
    (
        "weights of pixels that are not computed stay",
        SPARSE,
        "weights = put(take(flat, pixels), pixels, flat.shape[1]).reshape(weights.shape)",
        "pass",
        PIXELS,
    ),
    (
        "self-attention sees the chosen pixels alone",
        MIXTURE,
        "self.attended(self.project, hidden, context, watch, pixels)",
        "self.attended(self.project, hidden, context, watch)",
        PIXELS,
    ),
    (
        "the largest weight decides",
        SPARSE,
        "jnp.mean(weights, axis=(1",
        "jnp.max(weights, axis=(1",
        BELOW,
    ),
    (
        "the batch decides, not the picture",
        SPARSE,
        "axis=(1, 2), keepdims=True) > self",
        "keepdims=True) > self",
        BELOW,
    ),
    ("nothing is skipped", SPARSE, "jnp.all(weights == 0.0)", "jnp.all(weights < 0.0)", NOBODY),
    (
        "all experts weigh as the first",
        SPARSE,
        "weights = routing[..., expert]",
        "weights = routing[..., 1]",
        SEVERAL,
    ),
    (
        "an expert that needs all pixels is given some",
        SPARSE,
        "if chosen is not None and context is None:",
        "if False:",
        f"{T}an_expert_that_needs_all_pixels_is_refused",
    ),
    (
        "sparse routing may be watched",
        "moa_jax/sampling/compiled.py",
        "if watch and settings.sparse:",
        "if False:",
        f"{S}sparse_routing_cannot_be_watched",
    ),
    (
        "the settings of a rung do not count for what is kept",
        STUDY,
        "run = run_key(self.key, weights, settings)",
        "run = run_key(self.key, weights)",
        "tests/evaluation/test_study.py::test_other_settings_are_drawn_anew",
    ),
]
