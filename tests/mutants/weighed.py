"""Faults in how prompts with weights, and long ones, are read and embedded."""

PROMPTS, PROGRAM = "moa_jax/sampling/prompts.py", "moa_jax/sampling/program.py"
R, W = "tests/sampling/test_prompts.py::test_", "tests/sampling/test_weights.py::test_"
READ = f"{R}what_is_read"
PARTS = f"{R}a_weight_parts_words_as_separate_texts_would_be"
WHOLE = f"{R}words_stay_whole_but_where_a_window_is_too_short"
WINDOW = f"{R}a_marker_binds_its_word_in_its_window"
RULE, NOBODY = f"{W}the_rule_by_hand", f"{W}without_subjects_no_word_of_any_window_is_one"
SHOWS = f"{W}a_weight_shows_in_the_picture_and_a_plain_prompt_has_none"
EARLIER = "tests/sampling/test_options.py::test_records_of_earlier_versions_are_drawn_without"
EARLIER += "_weights"
SAME = "tests/applications/test_timelapse.py::test_words_with_weights_in_prompts_of_several_windows"

MUTATIONS = [
    (
        "an outer weight replaces the inner ones",
        PROMPTS,
        "weights[start:colon] *= float(number)",
        "weights[start:colon] = float(number)",
        READ,
    ),
    (
        "the words on both sides of a parenthesis become one",
        PROMPTS,
        'start - 1: (start, " ")',
        'start - 1: (start, "")',
        PARTS,
    ),
    (
        "the end of a window cuts a word",
        PROMPTS,
        "if tokens[end].endswith(WORD_END)",
        "",
        WHOLE,
    ),
    (
        "places do not count the begin tokens",
        PROMPTS,
        "range(len(ids) + 1, len(ids) + 1 + end - start)",
        "range(len(ids), len(ids) + end - start)",
        WINDOW,
    ),
    (
        "a weight multiplies the embedding",
        PROGRAM,
        "start + factors * (text.astype(jnp.float32) - start)",
        "factors * text.astype(jnp.float32)",
        RULE,
    ),
    (
        "the negative prompt has the prompt's weights",
        PROGRAM,
        "request.negative_ids, request.negative_weights",
        "request.negative_ids, request.weights",
        SHOWS,
    ),
    (
        "nobody becomes the first word of the second window",
        "moa_jax/sampling/request.py",
        "np.where(tokens == old, size, tokens)",
        "np.where(tokens == old, tokens, tokens)",
        NOBODY,
    ),
    (
        "a record without a word about weights is drawn with them",
        "moa_jax/sampling/options.py",
        '{"plain_prompt": True, **record}',
        '{"plain_prompt": False, **record}',
        EARLIER,
    ),
    (
        "what follows a shorter word stays where it is",
        "moa_jax/applications/timelapse.py",
        "token - extra if token > last + extra",
        "token if token > last + extra",
        SAME,
    ),
]
