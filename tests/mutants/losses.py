"""Faults in the three losses."""

LOSSES = "moa_jax/method/losses.py"
T = "tests/method/test_losses.py::test_"
MASKED, EACH = f"{T}masked_loss_is_fastcomposers", f"{T}masking_is_drawn_for_each_picture"
UNION = f"{T}union_mask_is_fastcomposers {T}masks_resize_as_pytorch_does"
OVERLAP = f"{T}subjects_that_overlap_count_once"
ROUTER = f"{T}router_loss_punishes_only_the_background"
LAYERS = f"{T}router_loss_sees_the_mean_over_layers_of_other_sizes"
RESIZED = f"{T}routing_is_resized_as_pytorch_does"
OBJECT = f"{T}object_loss_is_fastcomposers"
SIZES = f"{T}object_loss_resizes_masks_and_averages_layers_as_fastcomposer"
ABSENT = f"{T}object_loss_ignores_absent_subjects_and_empty_pictures"

MUTATIONS = [
    ("the target is added", LOSSES, "(prediction - target)", "(prediction + target)", MASKED),
    ("the mask is inverted", LOSSES, "None], mask, 1.0)", "None], 1.0 - mask, 1.0)", MASKED),
    ("the coin is inverted", LOSSES, "None], mask, 1.0)", "None], 1.0, mask)", MASKED),
    (
        "one coin for the batch",
        LOSSES,
        "jnp.where(masked[:, None, None]",
        "jnp.where(masked[:1, None, None]",
        EACH,
    ),
    (
        "the mean is over the masked pixels",
        LOSSES,
        "return jnp.mean(jnp.square(error))",
        "return jnp.sum(jnp.square(error)) / jnp.sum(weight)",
        MASKED,
    ),
    (
        "the error counts as it is, not squared",
        LOSSES,
        "return jnp.mean(jnp.square(error))",
        "return jnp.mean(jnp.abs(error))",
        MASKED,
    ),
    ("subjects that overlap count twice", LOSSES, "jnp.max(masks", "jnp.sum(masks", OVERLAP),
    ("the union is antialiased", LOSSES, "antialias=False", "antialias=True", UNION),
    (
        "routing is resized by nearest neighbour",
        LOSSES,
        '"linear") for layer in maps',
        '"nearest") for layer in maps',
        RESIZED,
    ),
    (
        "routing is summed over layers",
        LOSSES,
        "jnp.mean(jnp.stack(resized), axis=0)",
        "jnp.sum(jnp.stack(resized), axis=0)",
        LAYERS,
    ),
    ("L_router asks for the prior on subjects", LOSSES, "(1 - mask) *", "mask *", ROUTER),
    (
        "L_router pushes the prior away",
        LOSSES,
        "(1 - mask) * (1 - prior)",
        "(1 - mask) * prior",
        ROUTER,
    ),
    (
        "L_router is not squared",
        LOSSES,
        "jnp.mean(jnp.square((1 - mask)",
        "jnp.mean(jnp.abs((1 - mask)",
        ROUTER,
    ),
    (
        "L_router teaches nothing",
        LOSSES,
        "(1 - prior)))",
        "(1 - jax.lax.stop_gradient(prior))))",
        LAYERS,
    ),
    (
        "the layers' L_router asks for the prior on subjects",
        LOSSES,
        'background = 1 - jax.image.resize(mask, prior.shape, "linear")',
        'background = jax.image.resize(mask, prior.shape, "linear")',
        f"{T}the_layers_router_loss_does_not_see_the_subject",
    ),
    (
        "the layers' L_router is a mean over the whole picture",
        LOSSES,
        "jnp.sum(jnp.square(background), axis=(1, 2))",
        "background[0].size",
        f"{T}the_layers_router_loss_does_not_see_how_large_the_subject_is",
    ),
    (
        "the layers' L_router weighs pictures by their background",
        LOSSES,
        "jnp.mean(total / (jnp.sum(jnp.square(background), axis=(1, 2)) + EPSILON))",
        "jnp.sum(total) / (jnp.sum(jnp.square(background)) + EPSILON)",
        f"{T}the_layers_router_loss_is_the_mean_over_layers_and_pictures",
    ),
    (
        "the layers' L_router is summed over layers",
        LOSSES,
        "jnp.mean(jnp.stack([of_layer(layer) for layer in maps]))",
        "jnp.sum(jnp.stack([of_layer(layer) for layer in maps]))",
        f"{T}the_layers_router_loss_is_the_mean_over_layers_and_pictures",
    ),
    (
        "L_object draws attention to the background",
        LOSSES,
        "_mean_over(weights, 1 - subject) - _mean_over(weights, subject)",
        "_mean_over(weights, subject) - _mean_over(weights, 1 - subject)",
        OBJECT,
    ),
    (
        "L_object takes the whole picture for the background",
        LOSSES,
        "_mean_over(weights, 1 - subject)",
        "_mean_over(weights, jnp.ones_like(subject))",
        OBJECT,
    ),
    (
        "L_object divides by all places for subjects",
        LOSSES,
        "jnp.sum(counted, axis=-1) + EPSILON",
        "weights.shape[-1] + EPSILON",
        OBJECT,
    ),
    (
        "absent subjects count in L_object",
        LOSSES,
        "present.astype(jnp.float32)[:, None, :]",
        "jnp.ones_like(present, jnp.float32)[:, None, :]",
        ABSENT,
    ),
    (
        "L_object is summed over layers",
        LOSSES,
        "return jnp.mean(jnp.stack(layers))",
        "return jnp.sum(jnp.stack(layers))",
        SIZES,
    ),
    (
        "L_object's masks are not antialiased",
        LOSSES,
        'rows, columns), "linear")',
        'rows, columns), "linear", antialias=False)',
        SIZES,
    ),
    ("nothing guards an empty mask", LOSSES, "EPSILON = 1e-5", "EPSILON = 0.0", ABSENT),
]
