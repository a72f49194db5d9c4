"""Faults in what a plan counts."""

TRAFFIC = "moa_jax/planning/traffic.py"
T = "tests/planning/test_traffic.py::test_"

MUTATIONS = [
    (
        "a slice that is brought near while others work counts as all of its array",
        TRAFFIC,
        'if op.kind in _SLICES or op.kind == "slice-start":',
        "if op.kind in _SLICES:",
        f"{T}an_operation_moves_what_lies_in_memory",
    ),
    (
        "of a slice that is brought near, the original counts",
        TRAFFIC,
        "op.arrays[1:2] if op.kind",
        "op.arrays[:1] if op.kind",
        f"{T}an_operation_moves_what_lies_in_memory",
    ),
    (
        "awaiting a slice counts as moving it",
        TRAFFIC,
        "copy-done slice-done ",
        "copy-done ",
        f"{T}an_operation_moves_what_lies_in_memory",
    ),
]
