"""Faults in where arrays live on the mesh."""

MESH = "moa_jax/training/mesh.py"
T = "tests/training/test_mesh.py::test_"
PLACE, DIVIDE = (
    f"{T}every_kind_of_weight_has_its_place",
    f"{T}an_axis_that_does_not_divide_is_left_out",
)
PRESET = f"{T}a_preset_gives_the_devices_to_its_axis"
CONTRADICT = f"{T}axes_that_contradict_the_preset_are_refused"
FIT = f"{T}axes_that_do_not_fit_the_devices_are_refused_with_the_numbers"
BATCH = f"{T}a_batch_that_does_not_divide_is_refused_with_the_numbers"
SPLIT = f"{T}a_batch_is_split_over_the_data_axes_and_not_over_tensor"
HOST = f"{T}a_host_reads_the_rows_that_its_devices_hold"
GATHER = f"{T}a_step_gathers_weights_from_fsdp_and_leaves_tensor_split"
STEP = f"{T}a_step_takes_over_its_state_and_keeps_every_place"

MUTATIONS = [
    ("routers are split", MESH, '(rf"\\b{ROUTER}\\b", ())', '(rf"\\b{ROUTER}x\\b", ())', PLACE),
    (
        "the VAE's one head is split",
        MESH,
        '    (r"\\bvae\\..*\\bkernel$", LARGEST),',
        '    (r"\\bvaex\\..*\\bkernel$", LARGEST),',
        PLACE,
    ),
    (
        "queries, keys and values are split by features",
        MESH,
        'to_[qkv]\\.kernel$", ("fsdp", "tensor")),',
        'to_[qkv]\\.kernel$", ("tensor", "fsdp")),',
        PLACE,
    ),
    ("values are not split over heads", MESH, "to_[qkv]", "to_[qk]", PLACE),
    (
        "the way out of attention is split by features",
        MESH,
        'to_out\\.0\\.kernel$", ("tensor", "fsdp")),',
        'to_out\\.0\\.kernel$", ("fsdp", "tensor")),',
        PLACE,
    ),
    (
        "the towers' queries, keys and values are split by features",
        MESH,
        '_proj\\.kernel$", ("fsdp", "tensor")),',
        '_proj\\.kernel$", ("tensor", "fsdp")),',
        PLACE,
    ),
    (
        "the towers' way out is split by features",
        MESH,
        'out_proj\\.kernel$", ("tensor", "fsdp")),',
        'out_proj\\.kernel$", ("fsdp", "tensor")),',
        PLACE,
    ),
    ("the smallest dimension is split", MESH, "largest = max(", "largest = min(", PLACE),
    ("vectors are split", MESH, "if len(shape) < 2 or", "if", PLACE),
    (
        "axes that do not divide are kept",
        MESH,
        "size % axis_sizes[axis] == 0",
        "size >= axis_sizes[axis]",
        DIVIDE,
    ),
    (
        "the batch is whole along fsdp",
        MESH,
        'PartitionSpec(("data", "fsdp"))',
        'PartitionSpec("data")',
        SPLIT,
    ),
    (
        "fsdp's devices go to data",
        MESH,
        '"fsdp": ("fsdp", {"data": 1, "tensor": 1})',
        '"fsdp": ("data", {"fsdp": 1, "tensor": 1})',
        PRESET,
    ),
    (
        "dp lets the configuration set axes",
        MESH,
        '"dp": (), "fsdp": ()',
        '"dp": AXES, "fsdp": ()',
        CONTRADICT,
    ),
    (
        "an axis that contradicts the preset is taken",
        MESH,
        "if size != sizes[axis]:",
        "if size > devices:",
        CONTRADICT,
    ),
    (
        "devices may be left over",
        MESH,
        "if math.prod(sizes.values()) != devices:",
        "if math.prod(sizes.values()) > devices:",
        FIT,
    ),
    (
        "micro-batches need not divide",
        MESH,
        "batch_size % (accumulation * data * fsdp)",
        "batch_size % (data * fsdp)",
        BATCH,
    ),
    (
        "a host reads the first rows",
        MESH,
        "for row in range(batch_size)[part]}",
        "for row in range(len(range(batch_size)[part]))}",
        HOST,
    ),
    (
        "a device gets the host's first rows",
        MESH,
        "array[local[first] : local[last - 1] + 1]",
        "array[: last - first]",
        HOST,
    ),
    (
        "weights stay split over fsdp",
        MESH,
        '(None if axis == "fsdp" else axis for axis in spec)',
        "(axis for axis in spec)",
        GATHER,
    ),
    (
        "weights are gathered from tensor too",
        MESH,
        '(None if axis == "fsdp" else axis for axis in spec)',
        "(None for axis in spec)",
        GATHER,
    ),
    (
        "frozen weights are not gathered",
        MESH,
        "trained, frozen = jax.tree_util.tree_map_with_path(gather, (trained, frozen))",
        "trained = jax.tree_util.tree_map_with_path(gather, trained)",
        GATHER,
    ),
    ("the state is kept twice", MESH, "        donate_argnums=0,\n", "", STEP),
    (
        "the state is whole on every device after a step",
        MESH,
        "out_shardings=(places, replicated(mesh))",
        "out_shardings=(replicated(mesh), replicated(mesh))",
        STEP,
    ),
]
