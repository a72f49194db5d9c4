"""Faults in the multimodal prompt, and in where a caption's subjects stand."""

PROMPT, CAPTIONS = "moa_jax/method/prompt.py", "moa_jax/data/captions.py"
P, C = "tests/method/test_prompt.py::test_", "tests/data/test_captions.py::test_"
GRADIENT = f"{P}a_picture_has_zero_gradient_on_the_tokens_of_another"
START, PRIOR = f"{P}training_starts_at_the_words", f"{P}the_prior_never_sees_a_subject"
DEPEND = f"{P}subjects_depend_on_time_and_layer"
KEEP = f"{P}words_without_a_subject_keep_their_text"
FUSION, CONDITIONING = f"{P}fusion_is_fastcomposers", f"{P}conditioning_is_its_formula"
FREQUENCIES = f"{P}the_frequencies_never_change"
UNIT = f"{P}fourier_features_have_unit_norm_and_the_stated_widths"
LAST, MARKED = f"{C}the_last_place_for_a_word", f"{C}a_marker_takes_the_last_token_before_it"
MARKED += "_and_leaves_no_trace"
PLAIN = f"{C}without_markers_it_is_what_the_tokenizer_gives"
LETTERS = f"{C}a_marker_takes_the_last_token_with_letters_of_the_word_before_it"
FIND = f"{C}find_word"

MUTATIONS = [
    (
        "block 0's subjects serve all",
        PROMPT,
        "self.subjects[:, block]",
        "self.subjects[:, 0]",
        DEPEND,
    ),
    (
        "the prior gets the multimodal prompt",
        PROMPT,
        "return [self.text] + [prompt] * len(experts)",
        "return [prompt] + [prompt] * len(experts)",
        PRIOR,
    ),
    (
        "all subjects are put at the first word",
        PROMPT,
        "places == tokens[:, subject, None]",
        "places == tokens[:, 0, None]",
        GRADIENT,
    ),
    (
        "the first subject is put at all words",
        PROMPT,
        "subjects[:, subject, None].astype",
        "subjects[:, 0, None].astype",
        GRADIENT,
    ),
    (
        "a subject replaces the words behind it too",
        PROMPT,
        "places == tokens[:, subject, None]",
        "places >= tokens[:, subject, None]",
        KEEP,
    ),
    (
        "the word is the one after",
        PROMPT,
        "text, tokens[:, :, None]",
        "text, tokens[:, :, None] + 1",
        START,
    ),
    ("the MLPs take GELU's approximation", PROMPT, "(hidden), False)", "(hidden), True)", FUSION),
    (
        "the MLPs do not normalise",
        PROMPT,
        'LayerNorm(dtype=self.dtype, name="norm")(hidden)',
        "hidden",
        FUSION,
    ),
    (
        "the picture comes before the word",
        PROMPT,
        "[word, image.astype(word.dtype)]",
        "[image.astype(word.dtype), word]",
        FUSION,
    ),
    ("the fusion forgets the word", PROMPT, '"mlp1")(both) + word', '"mlp1")(both)', FUSION),
    ("the second MLP is not residual", PROMPT, '"mlp2")(fused) + fused', '"mlp2")(fused)', FUSION),
    (
        "the fused embedding is not normalised",
        PROMPT,
        'LayerNorm(dtype=self.dtype, name="norm")(fused)',
        "fused",
        FUSION,
    ),
    ("other frequencies", PROMPT, "RandomState(0)", "RandomState(1)", FREQUENCIES),
    (
        "sigma_t and sigma_l are swapped",
        PROMPT,
        "sigmas[0] * draws[0]",
        "sigmas[1] * draws[0]",
        UNIT,
    ),
    (
        "the layer is subtracted from the time",
        PROMPT,
        "[:, None, :] + phases",
        "[:, None, :] - phases",
        FREQUENCIES,
    ),
    ("layers count from 1", PROMPT, "jnp.arange(layers,", "jnp.arange(1, layers + 1,", FREQUENCIES),
    (
        "cosines come first",
        PROMPT,
        "[jnp.sin(phases), jnp.cos(phases)]",
        "[jnp.cos(phases), jnp.sin(phases)]",
        FREQUENCIES,
    ),
    ("features have another norm", PROMPT, " / np.sqrt(count)", "", UNIT),
    (
        "the subject is not normalised before the time is added",
        PROMPT,
        'subjects = LayerNorm(dtype=self.dtype, name="norm_subject")(subjects)',
        "subjects = subjects * 1.0",
        CONDITIONING,
    ),
    (
        "the place is not normalised",
        PROMPT,
        'return LayerNorm(dtype=self.dtype, name="norm_place")(places)',
        "return places",
        CONDITIONING,
    ),
    ("subjects do not start silent", PROMPT, "silent=True", "silent=False", START),
    (
        "what is learnt is not added to the word",
        PROMPT,
        "embedded = word[:, None] + MLP",
        "embedded = MLP",
        START,
    ),
    (
        "the picture is not asked",
        PROMPT,
        "conditioning(word, subjects, timesteps)",
        "conditioning(word, word, timesteps)",
        GRADIENT,
    ),
    ("no room for the end token", CAPTIONS, "room = length - 2", "room = length - 1", LAST),
    (
        "the last place is refused",
        CAPTIONS,
        "if count > room:",
        "if count >= room:",
        LAST,
    ),
    (
        "subjects' places do not count the begin token",
        CAPTIONS,
        "subject_tokens.append(count)",
        "subject_tokens.append(count - 1)",
        MARKED,
    ),
    (
        "padding is the end token",
        CAPTIONS,
        "tokenizer.pad_token_id",
        "tokenizer.eos_token_id",
        PLAIN,
    ),
    (
        "what follows a word is its last token",
        CAPTIONS,
        "sum(start < end for start, _ in spans)",
        "sum(start <= end for start, _ in spans)",
        LETTERS,
    ),
    (
        "the last of several words is found",
        CAPTIONS,
        "matches[occurrence - 1]",
        "matches[-1]",
        FIND,
    ),
    ("part of a word is found", CAPTIONS, r"(?!\w)", "", FIND),
]
