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
    "placement": (),
    "overlap": (),
}
