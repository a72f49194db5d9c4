"""Faults in the benchmarks, which would make wrong numbers look right."""

REPORT, WORK = "benchmarks/report.py", "benchmarks/work.py"
BOUNDS, SCALE, PAGE = "benchmarks/bounds.py", "benchmarks/scale.py", "benchmarks/scale_page.py"
T, S = "tests/benchmarks/test_report.py", "tests/benchmarks/test_scale.py"

CONVOLUTIONS, OPTIONS = "benchmarks/convolutions.py", "moa_jax/backbone/convolutions.py"
SAME = "tests/benchmarks/test_commands.py::test_every_formulation_of_a_convolution_gives_the_same"
EIGEN = "tests/backbone/test_convolutions.py::test_with_the_options_eigen_convolves_and_the_result"
TAKEN = "tests/sampling/test_steering.py::test_all_but_the_vae_is_compiled_with_the_convolutions_of"
TAKEN += "_this_machine"
COUNT = (
    "tests/benchmarks/test_cycles.py::test_each_operation_counts_with_its_turns_its_kind_and_its"
)

MUTATIONS = [
    (
        "a loop's expected cycles count once",
        "benchmarks/cycles.py",
        "turns * int(told[1]),",
        "int(told[1]),",
        f"{COUNT}_network",
    ),
    (
        "a product is taken for a convolution",
        "benchmarks/cycles.py",
        'each.kind == "convolution" and _PLACES.search(each.rest) for',
        'each.kind == "convolution" for',
        f"{COUNT}_network",
    ),
    (
        "XLA chooses the convolutions of a pipeline",
        "moa_jax/sampling/compiled.py",
        "compiler_options=convolution_options()",
        "compiler_options=None",
        TAKEN,
    ),
    (
        "YNNPACK convolves",
        OPTIONS,
        '("INDIVIDUAL_DOT", "REDUCE")',
        '("INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION")',
        f"{EIGEN}_is_the_same",
    ),
    (
        "Winograd's tiles overlap wrongly",
        CONVOLUTIONS,
        "[0, 1, 0, -1]], np.float32)",
        "[0, 1, 0, 1]], np.float32)",
        SAME,
    ),
    (
        "every round runs in the same order",
        REPORT,
        ":: -1 if turn % 2 else 1",
        "::1",
        f"{T}::test_calls_alternate_and_each_ratio_is_of_one_round",
    ),
    (
        "the ratio is the other way round",
        REPORT,
        "each = [one / other for",
        "each = [other / one for",
        f"{T}::test_calls_alternate_and_each_ratio_is_of_one_round",
    ),
    (
        "arguments that are not used count",
        WORK,
        "held = [var.aval for var in jaxpr.invars if id(var) in used]",
        "held = [var.aval for var in jaxpr.invars]",
        f"{T}::test_the_least_is_products_without_padding_and_what_is_used",
    ),
    (
        "a loop counts as one turn",
        WORK,
        'turns = given["length"] if name == "scan" else 1',
        "turns = 1",
        f"{T}::test_the_least_is_products_without_padding_and_what_is_used",
    ),
    (
        "temporaries of runs add up",
        WORK,
        "max(most, default=None)",
        "sum(most)",
        f"{T}::test_runs_add_up_but_for_what_they_hold",
    ),
    (
        "the shortest time bounds a step",
        BOUNDS,
        "return max(self.limits(corner).values())",
        "return min(self.limits(corner).values())",
        f"{S}::test_a_bound_is_the_longest_of_three_times_at_the_makers_peaks",
    ),
    (
        "a corner has all links",
        BOUNDS,
        "CORNER = 0.5",
        "CORNER = 1",
        f"{S}::test_at_a_corner_half_of_the_links_work_and_sums_are_sent_twice",
    ),
    (
        "one chip sends the messages of the smallest mesh",
        BOUNDS,
        "lambda each: each.alone",
        "lambda each: each.rate()",
        f"{S}::test_weak_scaling_is_relative_to_one_chip_without_messages",
    ),
    (
        "a step that recomputes its blocks is what strong scaling is relative to",
        BOUNDS,
        "if each.fits and not each.remat:",
        "if each.fits:",
        f"{S}::test_strong_scaling_is_relative_to_the_smallest_mesh_that_recomputes_nothing",
    ),
    (
        "plans on record are compiled again",
        SCALE,
        "if job.key in kept:",
        "if job in kept:",
        f"{S}::test_only_missing_plans_are_compiled_and_each_is_kept_at_once",
    ),
    (
        "what is not compiled is not said",
        PAGE,
        'f"Not compiled: {missing}." if missing',
        'f"Not compiled: {missing}." if not missing',
        f"{S}::test_a_missing_plan_is_said",
    ),
]
