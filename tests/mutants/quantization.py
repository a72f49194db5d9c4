"""Faults in kernels that are kept in int8."""

QUANTIZATION, TRAINED = "moa_jax/backbone/quantization.py", "moa_jax/method/trained.py"
B, S = "tests/backbone/test_quantization.py::test_", "tests/sampling/test_quantization.py::test_"
CHANNELS = f"{B}each_output_channel_is_rounded_to_steps_of_its_own"

MUTATIONS = [
    (
        "all channels of a kernel share one scale",
        QUANTIZATION,
        "axis=tuple(range(kernel.ndim - 1))",
        "axis=None",
        CHANNELS,
    ),
    (
        "values are cut instead of rounded",
        QUANTIZATION,
        "(exact / scale).round()",
        "(exact / scale)",
        CHANNELS,
    ),
    (
        "the time's projections are kept in int8 too",
        QUANTIZATION,
        r"(?!.*\btime_emb_proj\b)",
        "",
        f"{B}only_the_blocks_of_the_unet_are_in_int8",
    ),
    (
        "a LoRA makes floats of what it changes",
        QUANTIZATION,
        "return quantize(changed, kernel.dtype)",
        "return changed.astype(kernel.dtype)",
        f"{S}a_lora_is_merged_and_taken_back",
    ),
    (
        "the parts of a kernel in int8 count as weights that MoA adds",
        TRAINED,
        "jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_quantized)",
        "jax.tree_util.tree_leaves_with_path(tree)",
        f"{S}what_moa_adds_and_trained_keeps_its_floats",
    ),
    (
        "int8 is written as if it were floats",
        "moa_jax/backbone/weights.py",
        "if any(map(is_quantized, flat.values())):",
        "if False:",
        f"{B}what_is_in_int8_is_not_written",
    ),
]
