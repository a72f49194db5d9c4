"""The neighbours that do not change what a layer computes: they pack, place, move or explain it.

They are functions and classes that work on a trained MoA, or on any layer of experts. Names alone
stand here: nothing is imported before it is used.
"""

from typing import NamedTuple


class Tool(NamedTuple):
    """A neighbour of MoA that is no variant of it.

    Attributes:
        short: what its authors call it.
        title: of the paper.
        code: the class or function that is its idea, as `package.module:name`.
        test: the test of the property that fails if the idea is wrong.
    """

    short: str
    title: str
    code: str
    test: str


_HERE, _TESTS = "moa_jax.mixtures", "tests/mixtures"

BESIDE: dict[str, tuple[Tool, ...]] = {
    "compression": (
        Tool(
            "QMoE",
            "QMoE: Practical Sub-1-Bit Compression of Trillion-Parameter Models",
            f"{_HERE}.ternary:compress",
            f"{_TESTS}/test_ternary.py::test_later_inputs_make_up_for_the_error_of_earlier_ones",
        ),
        Tool(
            "D2MoE",
            "D²MoE: Dual Routing and Dynamic Scheduling for Efficient On-Device MoE-based LLM "
            "Serving",
            f"{_HERE}.bits:compress",
            f"{_TESTS}/test_bits.py::test_bits_go_where_they_gain_most",
        ),
        Tool(
            "EAQuant",
            "EAQuant: Enhancing Post-Training Quantization for MoE Models via Expert-Aware "
            "Optimization",
            f"{_HERE}.smoothing:smooth",
            f"{_TESTS}/test_smoothing.py"
            "::test_one_factor_serves_the_prior_the_experts_and_the_router",
        ),
    ),
    "attribution": (
        Tool(
            "BEE",
            "BEE: Metric-Adapted Explanations via Baseline Exploration-Exploitation",
            f"{_HERE}.attribution:explain",
            f"{_TESTS}/test_attribution.py::test_the_best_map_of_the_family_that_the_metric_likes",
        ),
    ),
    "placement": (
        Tool(
            "Z-code M3",
            "Scalable and Efficient MoE Training for Multitask Multilingual Models",
            f"{_HERE}.parallel:ExpertParallel",
            f"{_TESTS}/test_parallel.py::test_who_is_dropped_is_drawn_by_lot",
        ),
        Tool(
            "Hecate",
            "Hecate: Unlocking Efficient Sparse Model Training via Fully Sharded Sparse Data "
            "Parallelism",
            f"{_HERE}.parallel:Hecate",
            f"{_TESTS}/test_parallel.py::test_hot_experts_visit_and_the_others_stay",
        ),
        Tool(
            "MoETuner",
            "MoETuner: Optimized Mixture of Expert Serving with Balanced Expert Placement and "
            "Token Routing",
            f"{_HERE}.placement:place",
            f"{_TESTS}/test_placement.py::test_no_placement_is_better",
        ),
        Tool(
            "HybriMoE",
            "HybriMoE: Hybrid CPU-GPU Scheduling and Cache Management for Efficient MoE Inference",
            f"{_HERE}.caching:HybriMoe",
            f"{_TESTS}/test_caching.py::test_no_schedule_is_faster",
        ),
    ),
    "overlap": (
        Tool(
            "Comet",
            "Comet: Fine-grained Computation-communication Overlapping for Mixture-of-Experts",
            f"{_HERE}.parallel:Comet",
            f"{_TESTS}/test_parallel.py::test_pieces_travel_while_others_are_computed",
        ),
        Tool(
            "SE-MoE",
            "SE-MoE: A Scalable and Efficient Mixture-of-Experts Distributed Training and "
            "Inference System",
            f"{_HERE}.offload:stream",
            f"{_TESTS}/test_offload.py::"
            "test_a_chip_holds_two_blocks_and_copies_one_while_it_computes_the_other",
        ),
    ),
}
