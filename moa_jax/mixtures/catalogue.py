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
        full_size: the same for Stable Diffusion 1.5, where the options differ.
    """

    short: str
    title: str
    variant: str
    test: str
    full_size: str = ""


_HERE, _TESTS = "moa_jax.mixtures", "tests/mixtures"

CATALOGUE: dict[str, tuple[System, ...]] = {
    "low rank": (
        System(
            "LoRA",
            "LoRA: Low-Rank Adaptation of Large Language Models",
            f"{_HERE}.lowrank:Lora",
            f"{_TESTS}/test_lowrank.py::test_a_lora_expert_is_the_full_copy_with_its_change_merged",
        ),
        System(
            "MoRA",
            "Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank "
            "Adaptive Learning",
            f"{_HERE}.lowrank:Mora",
            f"{_TESTS}/test_lowrank.py::test_ranks_that_gate_themselves",
        ),
        System(
            "MoSA",
            "Split & Merge: Unlocking the Potential of Visual Adapters via Sparse Training",
            f"{_HERE}.lowrank:Mosa",
            f"{_TESTS}/test_lowrank.py::test_a_step_trains_one_part_and_all_parts_draw",
        ),
        System(
            "MoS",
            "MoS: Unleashing Parameter Efficiency of Low-Rank Adaptation with Mixture of Shards",
            f"{_HERE}.shards:Mos",
            f"{_TESTS}/test_shards.py::test_shards_are_the_lora_of_the_factors_they_make",
        ),
        System(
            "MixLoRA",
            "MixLoRA: Enhancing Large Language Models Fine-Tuning with LoRA based Mixture of "
            "Experts",
            f"{_HERE}.feed_forward:MixLora",
            f"{_TESTS}/test_feed_forward.py::test_experts_share_the_network_and_few_are_chosen",
        ),
    ),
    "routers": (
        System(
            "PR-MoE",
            "DeepSpeed-MoE: Advancing Mixture-of-Experts Inference and Training to Power "
            "Next-Generation AI Scale",
            f"{_HERE}.routers:Pyramid",
            f"{_TESTS}/test_routers.py::test_a_block_has_as_many_experts_as_it_is_given",
            f"{_HERE}.routers:Pyramid(counts=(1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1))",
        ),
        System(
            "MoDE",
            "Efficient Diffusion Transformer Policies with Mixture of Expert Denoisers for "
            "Multitask Learning",
            f"{_HERE}.routers:NoiseOnly",
            f"{_TESTS}/test_routers.py::test_noise_alone_decides",
        ),
        System(
            "MoDE, merged",
            "Efficient Diffusion Transformer Policies with Mixture of Expert Denoisers for "
            "Multitask Learning",
            f"{_HERE}.merged:Merged",
            f"{_TESTS}/test_merged.py::test_drawing_attends_once_with_the_merged_weights",
        ),
        System(
            "EvoMoE",
            "EvoMoE: An Evolutional Mixture-of-Experts Training Framework via Dense-To-Sparse Gate",
            f"{_HERE}.routers:DenseToSparse",
            f"{_TESTS}/test_routers.py::test_the_gate_grows_sparse",
        ),
        System(
            "CoE",
            "Chain-of-Experts: Unlocking the Communication Power of Mixture-of-Experts Models",
            f"{_HERE}.chain:Chain",
            f"{_TESTS}/test_routers.py::test_a_chain_applies_the_same_expert_to_its_result",
        ),
    ),
    "adapters": (
        System(
            "MoFME",
            "Efficient Deweather Mixture-of-Experts with Uncertainty-aware Feature-wise Linear "
            "Modulation",
            f"{_HERE}.adapters:Film",
            f"{_TESTS}/test_adapters.py::test_film_experts_are_one_attention_modulated",
        ),
        System(
            "Earth-Adapter",
            "Earth-Adapter: Bridge the Geospatial Domain Gaps with Mixture of Frequency Adaptation",
            f"{_HERE}.adapters:Frequency",
            f"{_TESTS}/test_adapters.py::test_each_adapter_sees_its_frequencies",
        ),
        System(
            "PILL",
            "PILL: Plug Into LLM with Adapter Expert and Attention Gate",
            f"{_HERE}.adapters:AttentionGate",
            f"{_TESTS}/test_adapters.py::test_a_gate_lets_a_subjects_values_in",
        ),
    ),
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
        System(
            "UoE",
            "Union of Experts: Adapting Hierarchical Routing to Equivalently Decomposed "
            "Transformer",
            f"{_HERE}.heads:UnionOfExperts",
            f"{_TESTS}/test_union.py::test_heads_attend_among_the_pixels_that_they_take",
        ),
    ),
    "blocks": (
        System(
            "VMoBA",
            "VMoBA: Mixture-of-Block Attention for Video Diffusion Models",
            f"{_HERE}.blocks:BlockAttention",
            f"{_TESTS}/test_blocks.py::test_a_head_keeps_its_most_similar_blocks",
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
        System(
            "MoVA",
            "MoVA: Adapting Mixture of Vision Experts to Multimodal Context",
            f"{_HERE}.vision:VisionExperts",
            f"{_TESTS}/test_vision.py::test_tokens_read_each_map_by_its_gate",
            f"{_HERE}.vision:VisionExperts(widths=(1024, 4), grid=16)",
        ),
        System(
            "SliME",
            "Beyond LLaVA-HD: Diving into High-Resolution Large Multimodal Models",
            f"{_HERE}.views:TwoViews",
            f"{_TESTS}/test_views.py::test_quarters_are_reduced_and_the_word_chooses_among_them",
            f"{_HERE}.views:TwoViews(width=1024, grid=16)",
        ),
        System(
            "Att-Adapter",
            "Att-Adapter: A Robust and Precise Domain-Specific Multi-Attributes T2I Diffusion "
            "Adapter via Conditional VAE",
            f"{_HERE}.attributes:AttributeAdapter",
            f"{_TESTS}/test_attributes.py::test_attributes_have_an_attention_beside_the_texts",
        ),
    ),
    "memories": (
        System(
            "MoM",
            "MoM: Linear Sequence Modeling with Mixture-of-Memories",
            f"{_HERE}.memories:MixtureOfMemories",
            f"{_TESTS}/test_memories.py::test_pixels_read_the_memories_that_they_write",
        ),
        System(
            "Mixture-of-Mamba",
            "Mixture-of-Mamba: Enhancing Multi-Modal State-Space Models with Modality-Aware "
            "Sparsity",
            f"{_HERE}.scan:MixtureOfMamba",
            f"{_TESTS}/test_scan.py::test_a_state_passes_over_prompt_and_pixels",
        ),
    ),
    "several adapters": (
        System(
            "X-LoRA",
            "X-LoRA: Mixture of Low-Rank Adapter Experts, a Flexible Framework for Large Language "
            "Models with Applications in Protein Mechanics and Molecular Design",
            f"{_HERE}.several:XLora",
            f"{_TESTS}/test_several.py::test_scalings_mix_adapters_inside_every_projection",
        ),
        System(
            "MeteoRA",
            "MeteoRA: Multiple-tasks Embedded LoRA for Large Language Models",
            f"{_HERE}.gates:Meteora",
            f"{_TESTS}/test_gates.py::test_every_projection_chooses_its_adapters",
        ),
        System(
            "MixDA",
            "Mixture-of-Domain-Adapters: Decoupling and Injecting Domain Knowledge to Pre-trained "
            "Language Models Memories",
            f"{_HERE}.domains:MixDa",
            f"{_TESTS}/test_domains.py::test_a_gate_adds_what_the_adapters_know_to_the_network",
        ),
        System(
            "LT-SFT",
            "Composable Sparse Fine-Tuning for Cross-Lingual Transfer",
            f"{_HERE}.sparse_tuning:LtSft",
            f"{_TESTS}/test_sparse_tuning.py::"
            "test_the_numbers_that_changed_most_are_tuned_from_the_start",
        ),
        System(
            "MOS",
            "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning",
            f"{_HERE}.surgery:Mos",
            f"{_TESTS}/test_surgery.py::test_drawing_settles_on_the_task_that_the_features_are_of",
        ),
        System(
            "Meta-DMoE",
            "Meta-DMoE: Adapting to Domain Shift by Meta-Distillation from Mixture-of-Experts",
            f"{_HERE}.distillation:MetaDmoe",
            f"{_TESTS}/test_distillation.py::test_the_student_takes_one_step_towards_the_teachers",
        ),
    ),
}
