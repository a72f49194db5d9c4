"""The systems of the mixture lab, by family.

Names alone stand here: no system is imported before it is used.
"""

from typing import NamedTuple


class System(NamedTuple):
    """A neighbour of MoA.

    Attributes:
        short: what its authors call it.
        title: of the paper, or "" for an idea of our own.
        variant: as `method.mixture` takes it.
        test: the test of the property that fails if the idea is wrong.
    """

    short: str
    title: str
    variant: str
    test: str


CATALOGUE: dict[str, tuple[System, ...]] = {
    "routers": (
        System(
            "PR-MoE",
            "DeepSpeed-MoE: Advancing Mixture-of-Experts Inference and Training to Power "
            "Next-Generation AI Scale",
            "moa_jax.mixtures.routers:Pyramid",
            "tests/mixtures/test_routers.py::test_a_block_has_as_many_experts_as_it_is_given",
        ),
        System(
            "MoDE",
            "Efficient Diffusion Transformer Policies with Mixture of Expert Denoisers for "
            "Multitask Learning",
            "moa_jax.mixtures.routers:NoiseOnly",
            "tests/mixtures/test_routers.py::test_noise_alone_decides",
        ),
        System(
            "EvoMoE",
            "EvoMoE: An Evolutional Mixture-of-Experts Training Framework via Dense-To-Sparse Gate",
            "moa_jax.mixtures.routers:DenseToSparse",
            "tests/mixtures/test_routers.py::test_the_gate_grows_sparse",
        ),
        System(
            "CoE",
            "Chain-of-Experts: Unlocking the Communication Power of Mixture-of-Experts Models",
            "moa_jax.mixtures.chain:Chain",
            "tests/mixtures/test_routers.py::test_a_chain_applies_the_same_expert_to_its_result",
        ),
    ),
    "adapters": (
        System(
            "MoFME",
            "Efficient Deweather Mixture-of-Experts with Uncertainty-aware Feature-wise Linear "
            "Modulation",
            "moa_jax.mixtures.adapters:Film",
            "tests/mixtures/test_adapters.py::test_film_experts_are_one_attention_modulated",
        ),
        System(
            "Earth-Adapter",
            "Earth-Adapter: Bridge the Geospatial Domain Gaps with Mixture of Frequency Adaptation",
            "moa_jax.mixtures.adapters:Frequency",
            "tests/mixtures/test_adapters.py::test_each_adapter_sees_its_frequencies",
        ),
        System(
            "PILL",
            "PILL: Plug Into LLM with Adapter Expert and Attention Gate",
            "moa_jax.mixtures.adapters:AttentionGate",
            "tests/mixtures/test_adapters.py::test_a_gate_lets_a_subjects_values_in",
        ),
    ),
}
