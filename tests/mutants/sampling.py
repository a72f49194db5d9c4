"""Faults in the loop around a sampler, in guidance and in inversion."""

SAMPLING, GUIDANCE = "moa_jax/diffusion/sampling.py", "moa_jax/diffusion/guidance.py"
INVERSION, DDIM = "moa_jax/diffusion/inversion.py", "moa_jax/diffusion/ddim.py"
S, G = "tests/diffusion/test_sampling.py::test_", "tests/diffusion/test_guidance.py::test_"
V = "tests/diffusion/test_inversion.py::test_"
LOOP, OWN = f"{S}the_loop_is_the_plan_followed_in_float64", f"{S}a_key_per_picture_gives_the_same"
OWN += "_picture_in_any_batch"
AUX, AFTER = f"{S}aux_is_given_for_every_step_in_order", f"{S}what_comes_after_a_step_sees_its"
AFTER += "_latents_and_index"
PROGRESS = f"{S}progress_reports_each_step_once_and_in_order"
AHEAD = f"{S}the_device_is_given_steps_ahead_and_never_all_of_them"
EXTRAPOLATE = f"{G}extrapolates_from_the_unconditional_prediction"
LOW, RESCALE = f"{G}predictions_of_low_precision_are_combined_in_float32", f"{G}rescaling_is_that"
RESCALE += "_of_diffusers"
RANGE, NONE = (
    f"{G}a_range_that_ends_where_another_begins_shares_no_step_with_it",
    f"{G}a_range_that",
)
NONE += "_no_step_lies_in_is_refused"
BACK, DIVIDES = f"{V}the_way_back_ends_at_the_start", f"{V}each_iteration_divides_the_error"
ROWS, COUNTS = (
    f"{V}rows_that_end_steps_lie_on_ddims_trajectory",
    f"{V}the_loop_follows_the_plan_and",
)
COUNTS += "_counts_the_steps_backwards"
ETA = "tests/diffusion/test_parity.py::test_ddims_noise_agrees"

MUTATIONS = [
    (
        "every step adds the same noise",
        SAMPLING,
        "(keys, row)",
        "(keys, 0 * row)",
        LOOP,
    ),
    (
        "all pictures have the first one's noise",
        SAMPLING,
        "jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:], jnp.float32))(keys)",
        "jnp.broadcast_to(jax.random.normal(keys[0], latents.shape[1:]), latents.shape)",
        OWN,
    ),
    (
        "a row is told the number of another's step",
        SAMPLING,
        "step = row if sampler.steps is None else int(sampler.steps[row])",
        "step = row",
        COUNTS,
    ),
    (
        "the last step's aux is lost",
        SAMPLING,
        "return latents, seen",
        "return latents, seen[:-1]",
        AUX,
    ),
    (
        "what comes after a step is told the next one",
        SAMPLING,
        "after_step(latents, step)",
        "after_step(latents, step + 1)",
        AFTER,
    ),
    ("the last steps are not reported", SAMPLING, "    settle(0)\n", "", PROGRESS),
    ("the device gets all steps at once", SAMPLING, "settle(AHEAD)", "settle(10**6)", AHEAD),
    (
        "the carry begins without the latents",
        SAMPLING,
        "carry, seen = sampler.init(latents), []",
        "carry, seen = sampler.init(0 * latents), []",
        COUNTS,
    ),
    (
        "guidance starts from the conditional prediction",
        GUIDANCE,
        "unconditional + guidance_scale * (conditional - unconditional)",
        "conditional + guidance_scale * (conditional - unconditional)",
        EXTRAPOLATE,
    ),
    (
        "guidance pushes the other way",
        GUIDANCE,
        "guidance_scale * (conditional - unconditional)",
        "guidance_scale * (unconditional - conditional)",
        EXTRAPOLATE,
    ),
    (
        "guidance is of the predictions' own precision",
        GUIDANCE,
        "(each.astype(jnp.float32) for each in (unconditional, conditional))",
        "(each for each in (unconditional, conditional))",
        LOW,
    ),
    (
        "rescaling goes all the way",
        GUIDANCE,
        "factor = 1.0 + rescale * (",
        "factor = 1.0 + (",
        RESCALE,
    ),
    (
        "the deviation is of the whole batch",
        GUIDANCE,
        "axis=(1, 2, 3), keepdims",
        "axis=(0, 1, 2, 3), keepdims",
        RESCALE,
    ),
    (
        "the deviation is of a population",
        GUIDANCE,
        "ddof=1",
        "ddof=0",
        RESCALE,
        "only the ratio of two is taken, of as many numbers each",
    ),
    (
        "a step that only begins in a part belongs to it",
        GUIDANCE,
        "((steps + 1) / num_steps <= end + slack)",
        "(steps / num_steps <= end + slack)",
        RANGE,
    ),
    ("a part with no step is taken", GUIDANCE, "if not inside.any():", "if False:", NONE),
    (
        "a step back does not undo the shrinking",
        INVERSION,
        '"prediction": -push / shrink',
        '"prediction": -push',
        BACK,
    ),
    (
        "the way back takes the steps forwards",
        INVERSION,
        "forwards.coefficients[name][::-1]",
        "forwards.coefficients[name]",
        BACK,
    ),
    (
        "a guess starts from the guess before",
        INVERSION,
        'row["start"] * carry + row["prediction"]',
        'row["start"] * latents + row["prediction"]',
        DIVIDES,
    ),
    (
        "a step never ends",
        INVERSION,
        'jnp.where(row["ends"] > 0.0, guess, carry)',
        "carry",
        BACK,
    ),
    (
        "steps are counted forwards on the way back",
        INVERSION,
        '"steps": np.arange(taken)[::-1]',
        '"steps": np.arange(taken)',
        COUNTS,
    ),
    (
        "the way back starts at the noise level of its end",
        INVERSION,
        "np.append(forwards.signals[-1], signals)",
        "np.append(forwards.signals[-2], signals)",
        ROWS,
    ),
    (
        "the first iteration ends a step",
        INVERSION,
        "np.arange(iterations) == iterations - 1",
        "np.arange(iterations) == 0",
        ROWS,
    ),
    (
        "the noise is taken away",
        DDIM,
        'result += row["fresh_noise"] * normal_like(latents, keys)',
        'result -= row["fresh_noise"] * normal_like(latents, keys)',
        ETA,
    ),
]
