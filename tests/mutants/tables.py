"""Faults in the toy world's tables, and in attention on NVIDIA GPUs."""

JOBS, WAYS = "moa_jax/evaluation/toy/jobs.py", "moa_jax/evaluation/drawn/ways.py"
TRAINED, COMMAND = "moa_jax/method/trained.py", "moa_jax/evaluation/toy/command.py"
STUDY, CUDNN = "moa_jax/evaluation/toy/study.py", "moa_jax/backbone/cudnn.py"
J, D = "tests/evaluation/test_tables.py::test_", "tests/evaluation/test_drawn.py::test_"
C, G = "tests/evaluation/test_command.py::test_", "tests/backbone/test_cudnn.py::test_"
BEFORE = f"{J}what_all_read_is_there_before_the_first_begins"
AT_ONCE = f"{J}commands_run_side_by_side_and_the_failed_are_named"
ANOTHER = f"{D}another_variant_gets_the_same_weights_and_a_card_of_its_own"

MUTATIONS = [
    ("a row is done before the next begins", JOBS, "key=lambda each: each.seed", "key=id", BEFORE),
    ("the prior is left to every process", JOBS, "    study.prior()\n", "", BEFORE),
    (
        "one command runs at a time",
        JOBS,
        "ThreadPoolExecutor(jobs)",
        "ThreadPoolExecutor(1)",
        AT_ONCE,
    ),
    (
        "a failed command is passed over",
        JOBS,
        "            if code:\n",
        "            if False:\n",
        AT_ONCE,
    ),
    (
        "a training alone writes the report too",
        COMMAND,
        "            if options.seed is None:\n",
        "            if True:\n",
        f"{C}one_training_alone_leaves_its_record_and_no_report",
    ),
    ("a way keeps the trained variant", WAYS, "config=config)\n", "step=card.step)\n", ANOTHER),
    (
        "weights are written anew each time",
        WAYS,
        "or read_moa_card(folder) != card",
        "or True",
        ANOTHER,
    ),
    (
        "a way is compared with the one before it",
        WAYS,
        "first = first or (pictures, readings)",
        "first = (pictures, readings)",
        f"{D}all_are_compared_with_the_first",
    ),
    (
        "settings that are objects all look alike",
        STUDY,
        "default=repr",
        "default=lambda _: 0",
        f"{D}settings_that_are_objects_count_in_what_a_run_is_known_by",
    ),
    (
        "the prompt's networks are counted",
        TRAINED,
        'for part in ("unet", "variant") if part in params',
        'for part in params if part != "x"',
        "tests/evaluation/test_report.py::test_the_weights_of_a_row_are_those_added_to_the_unet",
    ),
    (
        "the kernel is differentiated where it cannot be",
        CUDNN,
        "if has_gradient(",
        "if True or has_gradient(",
        f"{G}without_a_gradient_of_its_own_plain_attentions_is_taken_and_said",
    ),
    (
        "plain attention is always differentiated",
        CUDNN,
        "if has_gradient(",
        "if False and has_gradient(",
        f"{G}the_kernels_own_gradient_is_taken_where_it_has_one",
    ),
]
