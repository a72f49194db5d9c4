"""Faults in what goes into the losses. The tests that see them need no network of full shape.

What the same terms and their gradients are for real networks, tests/training/oracle.py says.
"""

OBJECTIVE = "moa_jax/training/objective.py"
P, T = "tests/training/test_objective.py::test_", "tests/training/test_objective_terms.py::test_"
NOISY = f"{P}the_loss_on_networks_of_one_line_is_that_worked_out"
SPREAD = f"{P}draws_are_spread_as_they_should_be"
KEYS = f"{P}draws_are_those_of_the_pictures_own_keys"
ROUTER = f"{T}the_router_term_reads_the_prior_of_the_blocks_between"
OBJECT, TOTAL = f"{T}the_object_term_reads_the_middle", f"{T}the_total_weighs_the_terms"
SHARES = f"{T}what_is_logged_of_the_routing_is_its_mean_over_each_region"
BEFORE = f"{T}pictures_encoded_before_have_the_same_loss"

MUTATIONS = [
    (
        "the noise target is negated",
        OBJECTIVE,
        "target = training_target(",
        "target = -training_target(",
        NOISY,
    ),
    (
        "the VAE's noise is the diffusion's too",
        OBJECTIVE,
        "jax.random.normal(noise, latents)",
        "jax.random.normal(encoding, latents)",
        SPREAD,
    ),
    (
        "the noise that is added is the VAE's",
        OBJECTIVE,
        "add_noise(schedule, latents, draws.noise, draws.timesteps)",
        "add_noise(schedule, latents, draws.encoding, draws.timesteps)",
        NOISY,
    ),
    (
        "timesteps come from the lower half only",
        OBJECTIVE,
        "jax.random.randint(time, (), 0, timesteps)",
        "jax.random.randint(time, (), 0, timesteps // 2)",
        SPREAD,
    ),
    (
        "the first timesteps are left out",
        OBJECTIVE,
        "jax.random.randint(time, (), 0, timesteps)",
        "jax.random.randint(time, (), 20, timesteps)",
        SPREAD,
    ),
    (
        "the coin is inverted",
        OBJECTIVE,
        "jax.random.bernoulli(coin, mask_probability)",
        "jax.random.bernoulli(coin, 1 - mask_probability)",
        SPREAD,
    ),
    (
        "time and coin share a key",
        OBJECTIVE,
        "jax.random.bernoulli(coin, mask_probability)",
        "jax.random.bernoulli(time, mask_probability)",
        KEYS,
    ),
    (
        "the mean of the latents is not scaled",
        OBJECTIVE,
        "return scale * mean.astype(jnp.float32), scale * deviation",
        "return mean.astype(jnp.float32), scale * deviation",
        NOISY,
    ),
    (
        "the deviation of the latents is not scaled",
        OBJECTIVE,
        "return scale * mean.astype(jnp.float32), scale * deviation",
        "return scale * mean.astype(jnp.float32), deviation",
        NOISY,
    ),
    (
        "the deviation is a variance",
        OBJECTIVE,
        "jnp.exp(0.5 * log_variance",
        "jnp.exp(log_variance",
        NOISY,
    ),
    (
        "latents are their mean",
        OBJECTIVE,
        "latents = mean + deviation * draws.encoding",
        "latents = mean",
        NOISY,
    ),
    (
        "pixels are in [0, 2]",
        OBJECTIVE,
        "images.astype(jnp.float32) / 127.5 - 1.0",
        "images.astype(jnp.float32) / 127.5",
        NOISY,
    ),
    (
        "the network is not told the time of its noise",
        OBJECTIVE,
        "        draws.timesteps,\n        model.encode_text",
        "        draws.timesteps // 2,\n        model.encode_text",
        NOISY,
    ),
    (
        "the mask is that of the first subject",
        OBJECTIVE,
        "union_mask(masks, latents.shape[1:3])",
        "union_mask(masks[:, :1], latents.shape[1:3])",
        SHARES,
    ),
    (
        "L_router reads all blocks",
        OBJECTIVE,
        "model.router_loss_layers(method.router_loss_skip)",
        "model.blocks",
        ROUTER,
    ),
    (
        "L_router reads the personalized expert",
        OBJECTIVE,
        "[weights[..., PRIOR] for weights in layers]",
        "[weights[..., 1] for weights in layers]",
        ROUTER,
    ),
    (
        "L_router never reads each layer by itself",
        OBJECTIVE,
        'method.router_loss == "layers"',
        'method.router_loss == "layer"',
        f"{T}the_router_term_may_read_each_layer_by_itself",
    ),
    (
        "L_object reads all blocks",
        OBJECTIVE,
        "_object_term(model.object_loss_layers()",
        "_object_term(model.blocks",
        OBJECT,
    ),
    (
        "absent subjects are present to L_object",
        OBJECTIVE,
        'seen, masks, batch["subject_present"]',
        'seen, masks, jnp.ones_like(batch["subject_present"])',
        OBJECT,
    ),
    (
        "the weights of two terms are swapped",
        OBJECTIVE,
        '"router": method.router_loss_weight if',
        '"router": method.object_loss_weight if',
        TOTAL,
    ),
    (
        "a single branch pays L_router",
        OBJECTIVE,
        'learns = method.router != "personalized"',
        "learns = True",
        TOTAL,
    ),
    (
        "the terms are not weighed",
        OBJECTIVE,
        "sum(weights[name] * term for name, term in terms.items())",
        "sum(terms.values())",
        TOTAL,
    ),
    (
        "what is logged inside is outside",
        OBJECTIVE,
        '"inside": jnp.mean(personalized * union)',
        '"inside": jnp.mean(personalized * (1 - union))',
        SHARES,
    ),
    (
        "what is logged inside is over the whole picture",
        OBJECTIVE,
        'numbers["inside"] / jnp.maximum(covered, 1e-6)',
        'numbers["inside"]',
        SHARES,
    ),
    (
        "the prior's share is logged as the expert's",
        OBJECTIVE,
        "[jnp.sum(weights[..., 1:], axis=-1) for",
        "[weights[..., PRIOR] for",
        SHARES,
    ),
    (
        "mean and deviation encoded before are swapped",
        OBJECTIVE,
        "mean, deviation = jnp.split(batch",
        "deviation, mean = jnp.split(batch",
        BEFORE,
    ),
]
