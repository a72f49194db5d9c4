"""Faults in the benchmarks, which would make wrong numbers look right."""

REPORT, WORK = "benchmarks/report.py", "benchmarks/work.py"
T = "tests/benchmarks/test_report.py"

MUTATIONS = [
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
]
