"""Qwen3-VL: captions by an instruction.

Source: the Qwen team's Qwen3-VL, in the form that transformers has of it; the marks of its chat
are those of its own template. Never run here with its released weights: the tests use small ones.
"""

from typing import Any

from PIL import Image, ImageOps

from moa_jax.dataset.checkpoint import REMEDY, fetch, load, load_processor
from moa_jax.extension import import_extra

# One for each attempt: the later ones ask for what an ambiguous caption lacked.
INSTRUCTIONS = (
    "Describe this picture in one plain English sentence. Begin with the people, if there are any.",
    "Describe this picture in one plain English sentence. Name each person by one noun, and give "
    "each a different description, such as 'a woman in red and an old man with a hat'.",
    "Describe this picture in one short English sentence that names only the main person.",
)
CHAT = (
    "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{instruction}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
MOST = 1024  # pixels of the longer side; its own limit is 16 times as many pixels [ours]
PLACE = "<|image_pad|>"  # stands for each piece of the picture


class Qwen3VL:
    """A captioner."""

    attempts = len(INSTRUCTIONS)

    def __init__(
        self,
        model: str = "Qwen/Qwen3-VL-4B-Instruct",
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        max_new_tokens: int = 96,
    ) -> None:
        """Load it; the arguments and errors are those of `Florence2`."""
        self._torch = import_extra("torch", "Qwen3-VL", REMEDY)
        folder, self.about = fetch(model, revision, "Apache-2.0")
        self._model = load("Qwen3VLForConditionalGeneration", folder, device, dtype)
        # Not its whole processor, which prepares films too, and needs torchvision for that.
        self._images = load_processor("Qwen2VLImageProcessorPil", folder)
        self._tokenizer = load_processor("AutoTokenizer", folder)
        self._longest = max_new_tokens

    def caption(self, image: Image.Image, attempt: int) -> str:
        """Give a caption; see `Captioner`."""
        inputs = self._inputs(image, INSTRUCTIONS[attempt])
        longest = self._longest
        with self._torch.inference_mode():
            tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=longest)
        answer = tokens[0, inputs["input_ids"].shape[1] :]
        return self._tokenizer.decode(answer, skip_special_tokens=True).strip()

    def _inputs(self, image: Image.Image, instruction: str) -> dict[str, Any]:
        """Prepare the picture and the chat, which has a place for each piece of the picture."""
        if max(image.size) > MOST:
            image = ImageOps.contain(image, (MOST, MOST))
        pictures = self._images(images=[image], return_tensors="pt")
        pieces = int(pictures["image_grid_thw"][0].prod()) // self._images.merge_size**2
        chat = CHAT.format(image=PLACE * pieces, instruction=instruction)
        text = self._tokenizer(chat, return_tensors="pt")
        ids = text["input_ids"]
        places = ids == self._tokenizer.convert_tokens_to_ids(PLACE)
        given = {
            "input_ids": ids,
            "attention_mask": text["attention_mask"],
            "mm_token_type_ids": places.int(),
            "image_grid_thw": pictures["image_grid_thw"],
        }
        found = {name: value.to(self._model.device) for name, value in given.items()}
        pixels = pictures["pixel_values"].to(self._model.device, self._model.dtype)
        return found | {"pixel_values": pixels}
