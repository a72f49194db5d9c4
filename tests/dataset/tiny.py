"""Small random Florence-2 and SAM 2 folders, as `save_pretrained` of transformers writes them."""

import json

import torch
import transformers

from moa_jax.backbone.tokenizer import ALPHABET, write_tokenizer

SIDE = 64  # pixels to which Florence-2's pictures are resized here
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
POST_PROCESSING = {  # as in the released processors: one entry for each kind of answer that is used
    "pure_text": {},
    "phrase_grounding": {"banned_grounding_tokens": ["it", "the image"]},
}


def write_florence2(folder):
    """A BART of one layer over a DaViT of four blocks; each byte is a token."""
    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: number for number, token in enumerate([*special, *ALPHABET])}
    named = {"image_token": "<image>"}
    tokenizer = transformers.BartTokenizer(
        vocab=vocabulary, merges=[], extra_special_tokens=named, model_max_length=512
    )
    tokenizer.add_tokens([f"<loc_{number}>" for number in range(1000)])
    vision = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 8, 16, 16),
        "num_heads": (1, 1, 2, 2),
        "num_groups": (1, 1, 2, 2),
        "window_size": 2,
        "projection_dim": 16,
    }
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    config = transformers.Florence2Config(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    transformers.Florence2ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokens = (SIDE // 32) ** 2 + 1
    images = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "do_center_crop": False,
        "resample": 3,
        "image_mean": MEAN,
        "image_std": STD,
        "image_seq_length": tokens,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    processor = {"processor_class": "Florence2Processor", "post_processor_config": POST_PROCESSING}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def write_sam2(folder):
    """A Hiera of five blocks on pictures of 128 pixels."""
    torch.manual_seed(0)
    backbone = {
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [128, 128],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 2, 2],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
        "model_type": "sam2_hiera_det_model",
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 16,
    }
    prompts = {"hidden_size": 16, "image_size": 128, "patch_size": 16, "mask_input_channels": 4}
    masks = {
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    config = transformers.Sam2Config(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks
    )
    transformers.Sam2Model(config).save_pretrained(folder)
    images = {
        "image_processor_type": "Sam2ImageProcessor",
        "size": {"height": 128, "width": 128},
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def write_qwen3_vl(folder):
    """Two layers of text and two of pictures; each byte is a token."""
    torch.manual_seed(0)
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    marks += ["<|image_pad|>", "<|video_pad|>"]
    vocabulary = {token: number for number, token in enumerate([*marks, *ALPHABET])}
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], extra_special_tokens=marks[1:]
    )
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": (0,),
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]},
    }
    ids = {
        f"{name}_token_id": vocabulary[f"<|{mark}|>"]
        for name, mark in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    config = transformers.Qwen3VLConfig(vision_config=vision, text_config=text, **ids)
    transformers.Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": 64 * 64, "longest_edge": 128 * 128},
        "patch_size": 16,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def write_sam3(folder):
    """A ViT of two blocks on pictures of 56 pixels, and six queries."""
    torch.manual_seed(0)
    write_tokenizer(folder)
    width = {"hidden_size": 16, "intermediate_size": 16}
    backbone = {
        **width,
        "model_type": "sam3_vit_model",
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    }
    vision = {
        "backbone_config": backbone,
        "fpn_hidden_size": 16,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }
    text = {
        **width,
        "vocab_size": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "projection_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    layers = {**width, "num_layers": 1, "num_attention_heads": 2}
    config = transformers.Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 6},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )
    transformers.Sam3Model(config).save_pretrained(folder)
    return folder


def write_rf_detr(folder):
    """A DINOv2 of two blocks on pictures of 56 pixels, and six queries."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "num_windows": 2,
        "out_indices": [1, 2],
    }
    config = transformers.RfDetrConfig(
        backbone_config=backbone,
        d_model=16,
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=6,
        group_detr=1,
        id2label={0: "background", 1: "person", 2: "dog"},
    )
    transformers.RfDetrForInstanceSegmentation(config).save_pretrained(folder)
    return folder
