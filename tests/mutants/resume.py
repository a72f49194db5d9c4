"""Faults in the step's state, in checkpoints, and in how a run goes on from one."""

STEP, LOOP = "moa_jax/training/step.py", "moa_jax/training/loop.py"
CHECKPOINT = "moa_jax/training/checkpoint.py"
S, L = "tests/training/test_small_step.py::test_", "tests/training/test_loop.py::test_"
C, B = (
    "tests/training/test_checkpoint.py::test_",
    "tests/training/test_broken_checkpoints.py::test_",
)
PAPER = f"{S}updates_and_their_average_are_those_on_paper"
FINITE = "tests/training/test_step.py::test_either_of_loss_and_gradient_keeps_an_update_from_being"
FINITE += "_applied"
NOISE = f"{S}every_step_every_row_and_every_seed_has_its_own_noise"
ROWS, AVERAGE = f"{S}a_row_keeps_its_noise_in_micro_batches", f"{S}pictures_are_drawn_with_the"
AVERAGE += "_average_if_there_is_one"
BFLOAT16 = (
    "tests/training/test_step.py::test_in_bfloat16_what_learns_and_its_optimizer_stay_float32"
)
BROKEN = f"{B}the_checkpoint_before_is_used_and_the_broken_one_named"
TWICE = f"{B}a_step_may_break_twice"
SHAPES = (
    f"{C}what_of_the_optimizer_shapes_the_state_is_listed "
    f"{C}what_of_the_method_shapes_the_state_is_listed"
)
BASE = f"{C}another_base_is_refused_by_name"
NEWEST = f"{C}only_the_newest_are_kept_and_no_frozen_weight_is_in_them"
STOPPING, HARMLESS = f"{C}stopping_and_resuming_changes_no_bit", f"{C}a_harmless_change_is_told"
PREFETCH = f"{L}prefetch_gives_each_batch_with_its_own_place"
NAN = f"{L}a_loss_that_is_not_finite_stops_with_step_term_and_last_good_checkpoint"
PREVIEWS = f"{L}previews_get_the_averaged_weights_at_their_steps"

MUTATIONS = [
    (
        "the average takes a step that is not finite",
        STEP,
        "ema=_choose(finite, ema, state.ema)",
        "ema=ema",
        FINITE,
    ),
    (
        "the moments take a step that is not finite",
        STEP,
        "optimizer=_choose(finite, moments, state.optimizer)",
        "optimizer=moments",
        FINITE,
    ),
    (
        "the weights take a step that is not finite",
        STEP,
        "trained=_choose(finite, trained, state.trained)",
        "trained=trained",
        FINITE,
    ),
    (
        "an infinite loss is applied",
        STEP,
        ' & jnp.isfinite(numbers["loss/total"])',
        "",
        FINITE,
    ),
    ("an infinite gradient is applied", STEP, "jnp.isfinite(norm) & ", "", FINITE),
    (
        "every step draws the same",
        STEP,
        "jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)",
        "jax.random.wrap_key_data(state.key)",
        NOISE,
    ),
    (
        "every seed draws the same",
        STEP,
        'stream(config.train.seed, "steps")',
        'stream(0, "steps")',
        NOISE,
    ),
    (
        "every row draws the same",
        STEP,
        "keys = jax.random.split(step_key, rows)",
        "keys = jnp.broadcast_to(step_key, rows)",
        NOISE,
    ),
    (
        "a row's key is another one's in micro-batches",
        STEP,
        "parts = jax.tree.map(split, (dict(batch), keys))",
        "parts = jax.tree.map(split, (dict(batch), keys[::-1]))",
        ROWS,
    ),
    ("micro-batches are summed", STEP, "array / micro_batches", "array", PAPER),
    (
        "the average starts one step late",
        STEP,
        "ema_decay, state.step)",
        "ema_decay, state.step + 1)",
        PAPER,
    ),
    ("the average keeps what should go", STEP, "average, 1.0 - warm", "average, warm", PAPER),
    (
        "the average has no warm-up",
        STEP,
        "jnp.minimum(decay, (1.0 + step) / (10.0 + step))",
        "decay",
        PAPER,
    ),
    (
        "the average follows the weights before the step",
        STEP,
        "update_ema(state.ema, trained,",
        "update_ema(state.ema, state.trained,",
        PAPER,
    ),
    (
        "the norm is that of the update",
        STEP,
        "norm = optax.tree.norm(gradient)",
        "norm = optax.tree.norm(updates)",
        PAPER,
    ),
    ("the step is not counted", STEP, "step=state.step + 1", "step=state.step", PAPER),
    (
        "pictures are drawn with the weights of the moment",
        STEP,
        "return self.trained if self.ema is None else self.ema",
        "return self.trained",
        AVERAGE,
    ),
    (
        "what learns in a half precision base learns in half precision",
        STEP,
        "jnp.array(leaf, jnp.float32, copy=True)",
        "jnp.array(leaf, copy=True)",
        BFLOAT16,
    ),
    (
        "the seal is not compared",
        CHECKPOINT,
        'card["seal"] != _seal(card, place)',
        'card["seal"] is None',
        BROKEN,
    ),
    (
        "checksums are not compared",
        CHECKPOINT,
        '(found := checksums(state)) != card["checksums"]',
        "not (found := checksums(state))",
        BROKEN,
    ),
    (
        "the oldest checkpoint is read",
        CHECKPOINT,
        "all_steps(), reverse=True)",
        "all_steps())",
        TWICE,
    ),
    (
        "broken checkpoints stay in the way",
        CHECKPOINT,
        "self.where(step).rename(aside)",
        "continue",
        TWICE,
    ),
    (
        "all checkpoints are kept",
        CHECKPOINT,
        "max_to_keep=config.train.keep_checkpoints",
        "max_to_keep=None",
        NEWEST,
    ),
    (
        "a checkpoint of another base is read",
        CHECKPOINT,
        'Identity(**card["identity"]).require(self._identity, what)',
        'Identity(**card["identity"])',
        BASE,
    ),
    (
        "a run without conditioning goes on with it",
        CHECKPOINT,
        '    "method.time_layer_conditioning": lambda used: used,\n',
        "",
        SHAPES,
    ),
    (
        "a run goes on with other frequencies",
        CHECKPOINT,
        '    "method.fourier_features": lambda count: count,\n',
        "",
        SHAPES,
    ),
    (
        "a run goes on with more of the tower",
        CHECKPOINT,
        '    "method.image_encoder_layers": lambda count: count,\n',
        "",
        SHAPES,
    ),
    (
        "a run with an average goes on without",
        CHECKPOINT,
        "lambda decay: decay is None",
        "lambda decay: True",
        SHAPES,
    ),
    (
        "a run whose routers waited goes on with others",
        CHECKPOINT,
        "lambda step: step == 0",
        "lambda step: True",
        SHAPES,
    ),
    (
        "a run by Muon goes on by Adam",
        CHECKPOINT,
        "lambda rate: rate is None",
        "lambda rate: True",
        SHAPES,
    ),
    (
        "changes of the configuration are not told",
        CHECKPOINT,
        "if before[key] != value",
        "if key not in saved",
        HARMLESS,
    ),
    (
        "the data begins anew after a stop",
        LOOP,
        "    batches.set_state(place)\n",
        "",
        STOPPING,
    ),
    (
        "the place saved is that of the batches read ahead",
        LOOP,
        "checkpoints.save(step, state, place)",
        "checkpoints.save(step, state, batches.get_state())",
        STOPPING,
    ),
    (
        "a batch comes with the place before it",
        LOOP,
        "            batch = next(batches)\n"
        "            queue.append((place_batch(mesh, batch), batches.get_state()))",
        "            place = batches.get_state()\n"
        "            queue.append((place_batch(mesh, next(batches)), place))",
        PREFETCH,
    ),
    ("nothing is read ahead", LOOP, "while len(queue) <= PREFETCH", "while not queue", PREFETCH),
    (
        "the step of the checkpoint is done again",
        LOOP,
        "range(start + 1, run.steps + 1)",
        "range(start or 1, run.steps + 1)",
        STOPPING,
    ),
    (
        "the last step is not saved",
        LOOP,
        " or step == run.steps:\n                with",
        ":\n                with",
        NEWEST,
    ),
    (
        "a step is saved before its numbers are seen",
        LOOP,
        "                with monitor.paused():\n                    checkpoints.save",
        "                with contextlib.nullcontext():\n                    checkpoints.save",
        NAN,
    ),
    (
        "numbers that are not finite pass",
        LOOP,
        "        self._require_finite(step, values)\n",
        "",
        NAN,
    ),
    (
        "previews get the weights of the moment",
        LOOP,
        "combine(state.averaged, frozen)",
        "combine(state.trained, frozen)",
        PREVIEWS,
    ),
]
