"""Faults in what a plan counts."""

TRAFFIC = "moa_jax/planning/traffic.py"
T = "tests/planning/test_traffic.py::test_"
ORIGIN = "moa_jax/planning/origin.py"
P = "tests/planning/test_origin.py::test_"

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
    (
        "a copy belongs to what it copies, though something reads it",
        ORIGIN,
        "return self._search(computation, op, forward=True) or",
        "return self._search(computation, op, forward=False) or",
        f"{P}copies_without_a_name_belong_to_what_reads_them_or_to_what_they_copy",
    ),
    (
        "what an asynchronous operation moves has no origin",
        ORIGIN,
        "if computation in self._starts:",
        "if False:",
        f"{P}copies_without_a_name_belong_to_what_reads_them_or_to_what_they_copy",
    ),
    (
        "the backward pass counts as the forward pass",
        ORIGIN,
        'return f"{named[2] or named[3]} backward" if named[1] else named[2] or named[3]',
        "return named[2] or named[3]",
        f"{P}a_path_names_network_and_kind",
    ),
]
