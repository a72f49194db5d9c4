"""Faults in the attention kernel for TPUs, and in what recomputed blocks keep."""

FLASH, BLOCKS = "moa_jax/backbone/flash.py", "moa_jax/backbone/blocks.py"
CHECK = "moa_jax/backbone/attention_check.py"
T, C = "tests/backbone/test_flash.py::test_", "tests/backbone/test_attention_check.py::test_"
OFF = f"{C}a_kernel_that_is_off_is_named_with_the_remedy"
SAME = f"{T}many_blocks_give_what_one_gives"

MUTATIONS = [
    (
        "padding gets weight",
        FLASH,
        "jnp.where(place < context, scores, LOW)",
        "jnp.where(place <= context, scores, LOW)",
        SAME,
    ),
    (
        "earlier blocks keep the weights of an older largest score",
        FLASH,
        "total[...] = fade * total[...] +",
        "total[...] = total[...] +",
        SAME,
    ),
    (
        "keys that are near are counted from the first block each time",
        FLASH,
        "first = step * near + block * columns",
        "first = block * columns",
        SAME,
    ),
    (
        "the gradient of a query comes from the last keys alone",
        FLASH,
        "of_query[:, here] += _dot(",
        "of_query[:, here] = _dot(",
        SAME,
    ),
    (
        "what lies behind the last value is mixed in",
        FLASH,
        "_dot(_real(value[:, here], first, context), weights",
        "_dot(value[:, here], weights",
        SAME,
    ),
    (
        "gradients take in what lies behind the last query",
        FLASH,
        "_real(each[:, here], block * rows, length)",
        "each[:, here]",
        SAME,
    ),
    (
        "gradients take in what lies behind the last key",
        FLASH,
        "(_real(each[...], step * columns, context) for each in (key, value))",
        "(each[...] for each in (key, value))",
        SAME,
    ),
    (
        "scores are not lowered by the largest",
        FLASH,
        "new = jnp.maximum(largest[...], jnp.max(scores, axis=0, keepdims=True))",
        "new = jnp.maximum(largest[...], 0.0)",
        f"{T}large_scores_do_not_overflow",
    ),
    (
        "recomputed blocks attend again",
        BLOCKS,
        "save_only_these_names(ATTENDED)",
        'save_only_these_names("nothing")',
        f"{T}recomputed_blocks_do_not_attend_again",
    ),
    (
        "a kernel that differs is taken",
        CHECK,
        "if not off <= LIMIT:",
        "if off > 1e9:",
        OFF,
    ),
    ("gradients are not compared", CHECK, "(mixed, *back(gradient))", "(mixed,)", OFF),
    (
        "a plan for a TPU elsewhere tries the kernel here",
        "moa_jax/backbone/attention_kernels.py",
        " and jax.default_backend() == platform:",
        ":",
        f"{C}the_kernel_is_tried_on_a_tpu_and_not_in_a_plan_for_one",
    ),
]
