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


_LOWRANK = "moa_jax.mixtures.lowrank"
_TESTS = "tests/mixtures/test"

CATALOGUE: dict[str, tuple[System, ...]] = {
    "low rank": (
        System(
            "LoRA",
            "LoRA: Low-Rank Adaptation of Large Language Models",
            f"{_LOWRANK}:Lora",
            f"{_TESTS}_lowrank.py::test_a_lora_expert_is_the_full_copy_with_its_change_merged",
        ),
        System(
            "MoRA",
            "Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank "
            "Adaptive Learning",
            f"{_LOWRANK}:Mora",
            f"{_TESTS}_lowrank.py::test_ranks_that_gate_themselves",
        ),
        System(
            "MoSA",
            "Split & Merge: Unlocking the Potential of Visual Adapters via Sparse Training",
            f"{_LOWRANK}:Mosa",
            f"{_TESTS}_lowrank.py::test_a_step_trains_one_part_and_all_parts_draw",
        ),
        System(
            "MoS",
            "MoS: Unleashing Parameter Efficiency of Low-Rank Adaptation with Mixture of Shards",
            "moa_jax.mixtures.shards:Mos",
            f"{_TESTS}_shards.py::test_shards_are_the_lora_of_the_factors_they_make",
        ),
        System(
            "MixLoRA",
            "MixLoRA: Enhancing Large Language Models Fine-Tuning with LoRA based Mixture of "
            "Experts",
            "moa_jax.mixtures.feed_forward:MixLora",
            f"{_TESTS}_feed_forward.py::test_experts_share_the_network_and_few_are_chosen",
        ),
    ),
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
