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


_HERE, _TESTS = "moa_jax.mixtures", "tests/mixtures"

CATALOGUE: dict[str, tuple[System, ...]] = {
    "modalities": (
        System(
            "MoT",
            "Mixture-of-Transformers: A Sparse and Scalable Architecture for Multi-Modal "
            "Foundation Models",
            f"{_HERE}.modalities:SubjectTokens",
            f"{_TESTS}/test_modalities.py::test_each_token_is_projected_by_its_modality",
        ),
        System(
            "MoMa",
            "MoMa: Efficient Early-Fusion Pre-training with Mixture of Modality-Aware Experts",
            f"{_HERE}.modalities:ExpertChoice",
            f"{_TESTS}/test_modalities.py::test_every_expert_takes_its_best_pixels",
        ),
        System(
            "Phi-4-MM",
            "Phi-4-Mini Technical Report: Compact yet Powerful Multimodal Language Models via "
            "Mixture-of-LoRAs",
            f"{_HERE}.presence:Presence",
            f"{_TESTS}/test_modalities.py::test_nobody_means_the_prior_to_the_bit",
        ),
    ),
    "heads": (
        System(
            "MoH",
            "MoH: Multi-Head Attention as Mixture-of-Head Attention",
            f"{_HERE}.heads:MixtureOfHeads",
            f"{_TESTS}/test_heads.py::test_each_pixel_adds_up_the_heads_that_it_chose",
        ),
    ),
    "guidance": (
        System(
            "SCMoE",
            "Unchosen Experts Can Contribute Too: Unleashing MoE Models' Power by Self-Contrast",
            f"{_HERE}.guidance:SelfContrast",
            f"{_TESTS}/test_guidance.py::test_drawing_goes_away_from_the_prior",
        ),
    ),
    "prompts": (
        System(
            "PerSubject",
            "",
            f"{_HERE}.prompts:PerSubject",
            f"{_TESTS}/test_prompts.py::test_the_order_of_subjects_is_that_of_their_routing_alone",
        ),
        System(
            "P-Adapters",
            "P-Adapters: Robustly Extracting Factual Information from Language Models with "
            "Diverse Prompts",
            f"{_HERE}.prompts:PAdapters",
            f"{_TESTS}/test_prompts.py::test_only_the_expert_reads_the_rewritten_text",
        ),
    ),
}
