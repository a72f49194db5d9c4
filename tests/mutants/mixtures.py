"""Faults in the mixture lab: each makes a system another one than its paper's."""

LAB, TESTS = "moa_jax/mixtures", "tests/mixtures"


def fault(what, file, old, new, test):
    return what, f"{LAB}/{file}.py", old, new, f"{TESTS}/{test}"


MUTATIONS = [
    fault(
        "LoRA without its factor",
        "lowrank",
        "+ self.scale * change",
        "+ change",
        "test_lowrank.py::test_a_lora_expert_is_the_full_copy_with_its_change_merged",
    ),
    fault(
        "MoRA's ranks are gated without temperature",
        "lowrank",
        "jax.nn.softmax(scores / temperature, axis=-1)",
        "jax.nn.softmax(scores, axis=-1)",
        "test_lowrank.py::test_ranks_that_gate_themselves",
    ),
    fault(
        "SCMoE draws towards the prior",
        "guidance",
        "strong + self.beta * (strong - weak)",
        "strong + self.beta * (weak - strong)",
        "test_guidance.py::test_drawing_goes_away_from_the_prior",
    ),
    fault(
        "MoH's chosen heads are not scaled by their number",
        "heads",
        "return count * kept /",
        "return kept /",
        "test_heads.py::test_each_pixel_adds_up_the_heads_that_it_chose",
    ),
    fault(
        "UoE's heads weigh their pixels alike",
        "heads",
        "put((mixed * take(weights, taken))",
        "put((mixed)",
        "test_union.py::test_heads_attend_among_the_pixels_that_they_take",
    ),
    fault(
        "VMoBA leaves a query's own block out",
        "blocks",
        "return own | (others",
        "return (others",
        "test_blocks.py::test_a_head_keeps_its_most_similar_blocks",
    ),
    fault(
        "MoMa's prior draws everywhere",
        "modalities",
        "prior = jnp.maximum(0.0, 1.0 - jnp.sum(weights, axis=-1, keepdims=True))",
        "prior = jnp.ones_like(weights[..., :1])",
        "test_modalities.py::test_every_expert_takes_its_best_pixels",
    ),
    fault(
        "QMoE's later inputs make up for nothing",
        "ternary",
        "        left[row:] -= inverse[row:, None] * error[None]\n",
        "",
        "test_ternary.py::test_later_inputs_make_up_for_the_error_of_earlier_ones",
    ),
    fault(
        "D2MoE forgets what a bit costs",
        "bits",
        "return (now - then) / sizes[layer]",
        "return now - then",
        "test_bits.py::test_bits_go_where_they_gain_most",
    ),
    fault(
        "EAQuant changes the norm and not its readers",
        "smoothing",
        "            flat[each] = flat[each] * by[:, None]\n",
        "            flat[each] = flat[each]\n",
        "test_smoothing.py::test_one_factor_serves_the_prior_the_experts_and_the_router",
    ),
    fault(
        "Z-code drops the last tokens, not some by lot",
        "parallel",
        "order = jax.random.permutation(",
        "_ = jax.random.permutation(",
        "test_parallel.py::test_who_is_dropped_is_drawn_by_lot",
    ),
    fault(
        "Hecate lends the experts that are wanted least",
        "parallel",
        "jnp.argsort(-wanted, axis=-1)",
        "jnp.argsort(wanted, axis=-1)",
        "test_parallel.py::test_the_most_wanted_experts_of_all_devices_are_the_hot_ones",
    ),
    fault(
        "Comet's pieces come home in the wrong order",
        "parallel",
        "pieces[(jnp.arange(devices) - here) % devices]",
        "pieces[(jnp.arange(devices) + here) % devices]",
        "test_parallel.py::test_pieces_that_overlap_are_the_whole",
    ),
    fault(
        "MoETuner counts no pixels that travel",
        "placement",
        "self.costs.append(-flow[before, after])",
        "self.costs.append(0.0)",
        "test_placement.py::test_no_placement_is_better",
    ),
]
