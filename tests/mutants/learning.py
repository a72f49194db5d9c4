"""Faults in what learns, and in the optimizer over it."""

TRAINED, OPTIMIZER = "moa_jax/method/trained.py", "moa_jax/training/optimizer.py"
W, T = "tests/method/test_trained.py::test_", "tests/training/test_optimizer.py::test_"
WHAT = f"{W}what_learns"
MASK, HALVES = f"{W}the_mask_counts_the_towers_layers", f"{W}partition_and_combine_are_inverse"
CLIP, ADAMW = f"{T}the_clip_is_over_what_learns", f"{T}update_is_adamw_written_out"
RATE, START = f"{T}learning_rate_warms_up_and_follows_its_schedule", f"{T}routers_wait_for_their"
START += "_first_step"
MUON, DECAY = f"{T}muon_moves_a_matrix_in_all_directions_alike", f"{T}muon_decays_at_each_ones"
DECAY += "_own_rate"
TRACKERS = "moa_jax/training/trackers.py"
GOES_ON = "tests/training/test_trackers.py::test_trackio_gets_the_numbers_of_the_run_and_goes_on"
GOES_ON += "_with_it"

MUTATIONS = [
    (
        "routers do not learn",
        TRAINED,
        "return is_added(path) and resolve(method.mixture).learns(path)",
        'return "router" not in path and is_added(path)',
        WHAT,
    ),
    (
        "experts do not learn",
        TRAINED,
        "return is_added(path) and resolve(method.mixture).learns(path)",
        'return "personalized" not in path and is_added(path)',
        WHAT,
    ),
    (
        "the prior learns",
        TRAINED,
        "return is_added(path) and resolve(method.mixture).learns(path)",
        'return path.startswith(("unet.", "prompt."))',
        WHAT,
    ),
    (
        "the prompt does not learn",
        TRAINED,
        'path.startswith(("prompt.", "variant."))',
        'path.startswith("variant.")',
        WHAT,
    ),
    (
        "the text encoder learns",
        TRAINED,
        'path.startswith(("prompt.", "variant."))',
        'path.startswith(("prompt.", "variant.", "text_encoder."))',
        WHAT,
    ),
    (
        "one layer of the tower too few",
        TRAINED,
        "int(layer[1]) >= vision_layers",
        "int(layer[1]) > vision_layers",
        WHAT,
    ),
    (
        "the first layers of the tower learn",
        TRAINED,
        ">= vision_layers - method.image_encoder_layers",
        "< method.image_encoder_layers",
        WHAT,
    ),
    ("the layers of the tower are counted from 0", TRAINED, "default=-1) + 1", "default=-1)", MASK),
    (
        "the halves are swapped",
        TRAINED,
        "leaf if on else optax.MaskedNode()",
        "optax.MaskedNode() if on else leaf",
        HALVES,
    ),
    (
        "the clip comes after Adam",
        OPTIMIZER,
        "        optax.clip_by_global_norm(config.max_grad_norm),\n"
        "        _updates(config, steps),\n",
        "        _updates(config, steps),\n"
        "        optax.clip_by_global_norm(config.max_grad_norm),\n",
        CLIP,
    ),
    (
        "the clip is of every weight by itself",
        OPTIMIZER,
        "optax.clip_by_global_norm(config.max_grad_norm)",
        "optax.clip(config.max_grad_norm)",
        CLIP,
    ),
    (
        "nothing is clipped",
        OPTIMIZER,
        "optax.clip_by_global_norm(config.max_grad_norm)",
        "optax.identity()",
        CLIP,
    ),
    (
        "there is no weight decay",
        OPTIMIZER,
        "optax.adamw(rate, weight_decay=decay)",
        "optax.adam(rate)",
        ADAMW,
    ),
    (
        "clip and decay do not know the mask",
        OPTIMIZER,
        "return optax.masked(optax.chain(*chain), mask)",
        "return optax.chain(*chain)",
        CLIP,
    ),
    (
        "the cosine ends after the run",
        OPTIMIZER,
        "config.warmup_steps, steps)",
        "config.warmup_steps, steps + config.warmup_steps)",
        RATE,
    ),
    (
        "the warm-up starts at the whole rate",
        OPTIMIZER,
        "optax.warmup_cosine_decay_schedule(0.0, peak",
        "optax.warmup_cosine_decay_schedule(peak, peak",
        RATE,
    ),
    (
        "there is no warm-up before the cosine",
        OPTIMIZER,
        "peak, config.warmup_steps, steps)",
        "peak, 0, steps)",
        RATE,
    ),
    (
        "without a warm-up the rate stays at 0",
        OPTIMIZER,
        "if config.warmup_steps == 0:",
        "if config.warmup_steps < 0:",
        f"{T}without_warm_up_the_first_step_has_the_whole_rate",
    ),
    (
        "routers learn one step late",
        OPTIMIZER,
        "step >= config.router_start",
        "step > config.router_start",
        START,
    ),
    (
        "all wait for the routers",
        OPTIMIZER,
        "chain.append(optax.masked(started, _routers))",
        "chain.append(started)",
        START,
    ),
    (
        "all but the routers wait",
        OPTIMIZER,
        "lambda path, _: is_router(path)",
        "lambda path, _: not is_router(path)",
        START,
    ),
    (
        "Muon's rate is Adam's",
        OPTIMIZER,
        "learning_rate(config, steps, config.muon_learning_rate)",
        "rate",
        MUON,
    ),
    (
        "Adam's rate is Muon's",
        OPTIMIZER,
        "adam_learning_rate=rate",
        "adam_learning_rate=learning_rate(config, steps, config.muon_learning_rate)",
        DECAY,
    ),
    (
        "Muon does not decay",
        OPTIMIZER,
        "        weight_decay=decay,\n        adam_learning",
        "        adam_learning",
        DECAY,
    ),
    ("Muon's Adam does not decay", OPTIMIZER, "        adam_weight_decay=decay,\n", "", DECAY),
    (
        "folders of one name are one run of trackio",
        TRACKERS,
        """f"{folder.name}-{_own_id(folder / 'trackio_id')}\"""",
        "folder.name",
        GOES_ON,
    ),
    (
        "a resumed run begins anew in trackio",
        TRACKERS,
        'resume="allow", embed=False',
        'resume="never", embed=False',
        GOES_ON,
    ),
    (
        "trackio gets steps again",
        TRACKERS,
        "if step > self._last:",
        "if step:",
        "tests/training/test_trackers.py::"
        "test_a_step_that_was_logged_before_a_crash_is_logged_once",
    ),
]
