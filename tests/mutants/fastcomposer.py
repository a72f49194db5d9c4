"""Faults in the FastComposer baseline: what is read of its file, its delay and its sampler."""

STATE = "moa_jax/evaluation/fastcomposer/state.py"
CONVERT = "moa_jax/evaluation/fastcomposer/convert.py"
VARIANT = "moa_jax/evaluation/fastcomposer/variant.py"
SETTINGS, PROGRAM = "moa_jax/sampling/settings.py", "moa_jax/sampling/program.py"
PNDM = "moa_jax/diffusion/pndm.py"
C = "tests/evaluation/fastcomposer/test_convert.py::test_"
P = "tests/evaluation/fastcomposer/test_parity.py::test_"
D = "tests/diffusion/test_pndm.py::test_"
HALF, OTHERS = f"{C}weights_in_half_precision_stay_so", f"{C}files_that_are_not_fastcomposers_are"
OTHERS += "_refused"
KEPT, LISTED = f"{C}a_folder_that_is_there_is_kept", f"{C}what_does_not_fit_is_listed_whole"
WITHOUT = f"{C}the_subjects_count_and_the_dial_and_the_delay_take_them_out"
SHARE = "tests/sampling/test_settings.py::test_a_delay_is_the_first_share_of_the_steps_that_are"
SHARE += "_taken"
EARLY = "tests/sampling/test_steering.py::test_delayed_steps_see_the_text_alone_in_every_expert"
AGREE = f"{P}features_prompts_and_predictions_are_fastcomposers"
PLMS, ROWS = f"{D}trajectories_agree", f"{D}each_row_belongs_to_a_step_and_has_its_level"
MASK = f"{D}what_a_mask_keeps_has_the_level_after_each_step"

MUTATIONS = [
    (
        "bfloat16 is taken for float16",
        STATE,
        ".view(jnp.bfloat16)",
        ".view(jnp.float16)",
        HALF,
    ),
    (
        "unknown keys are passed over",
        STATE,
        "if unknown or absent:",
        "if absent:",
        OTHERS,
    ),
    (
        "what does not fit is forgotten",
        CONVERT,
        "    if faults:\n",
        "    if len(faults) > 3:\n",
        LISTED,
    ),
    (
        "another model's folder is overwritten",
        CONVERT,
        "    if folder.exists() and",
        "    if not folder.exists() and",
        KEPT,
    ),
    (
        "every subject is the first one's embedding",
        VARIANT,
        "jnp.broadcast_to(subjects[:, None], shape)",
        "jnp.broadcast_to(subjects[:, None, :1], shape)",
        AGREE,
    ),
    (
        "the first steps see the subjects, and the others do not",
        SETTINGS,
        "over_steps(0.0, n, 0.0, self.delay, outside=1.0)",
        "over_steps(1.0, n, 0.0, self.delay, outside=0.0)",
        SHARE,
    ),
    (
        "the delay is lost where there is guidance",
        SETTINGS,
        "return steering._replace(guidance_scale=scale",
        "return Steering(dial=steering.dial)._replace(guidance_scale=scale",
        SHARE,
    ),
    (
        "a subject that is not seen yet stands at the first word",
        PROGRAM,
        "jnp.full_like(conditions.tokens, size)",
        "jnp.full_like(conditions.tokens, 0 * size)",
        EARLY,
    ),
    (
        "the delay changes nothing",
        "moa_jax/sampling/compiled.py",
        "unseen = without_subjects(conditions)",
        "without_subjects(conditions)",
        WITHOUT,
    ),
    (
        "the second try goes on from the first one's end",
        PNDM,
        "start = jnp.where(again, start, latents)",
        "start = latents",
        PLMS,
    ),
    (
        "what mends the first step counts as a step of its own",
        PNDM,
        "jnp.where(again, *each)",
        "each[1]",
        PLMS,
    ),
    (
        "the last of the four predictions has another sign",
        PNDM,
        "37 / 24, -9 / 24]",
        "37 / 24, 9 / 24]",
        PLMS,
    ),
    (
        "the rows of the first step are two steps",
        PNDM,
        "((steps, 0), (asked, 1), (again, 1))",
        "((steps, 1), (asked, 1), (again, 1))",
        ROWS,
    ),
    (
        "the photo has the level before each step",
        "moa_jax/sampling/start.py",
        "int(row) + 1)",
        "int(row))",
        MASK,
    ),
    (
        "a part of the tree without leaves is lost on disk",
        "moa_jax/backbone/remember.py",
        'keep_empty_nodes=True, sep="/"',
        'sep="/"',
        "tests/backbone/test_remember.py::test_what_was_traced_once_is_read",
    ),
]
