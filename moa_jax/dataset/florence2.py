"""Florence-2: captions, and the places of a caption's phrases.

Source: Xiao et al. 2023 (arXiv 2311.06242), in the form that transformers has of it. Never run
here with its released weights: the tests use small random ones.
"""

import re
from collections.abc import Sequence

from PIL import Image

from moa_jax.dataset.checkpoint import REMEDY, fetch, load, load_processor
from moa_jax.dataset.models import Phrase
from moa_jax.extension import import_extra

# Its prompts, in the order in which captions are tried: the middle length first.
CAPTION_TASKS = ("<DETAILED_CAPTION>", "<CAPTION>", "<MORE_DETAILED_CAPTION>")
# How many of its longer captions begin; prompts do not.
_OPENING = re.compile(
    r"(?:the|this) (?:image|picture|photo) (?:shows|features|depicts|is of) "
    r"|in (?:the|this) (?:image|picture|photo),? (?:we|i|you) can see |there (?:is|are) ",
    re.IGNORECASE,
)
GROUNDING_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"


class Florence2:
    """A captioner and a grounder."""

    attempts = len(CAPTION_TASKS)

    def __init__(
        self,
        model: str = "florence-community/Florence-2-large",
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        max_new_tokens: int = 512,
        num_beams: int = 3,
    ) -> None:
        """Load it.

        Args:
            model: a folder, or a repository on the hub.
            revision: a commit, a tag or a branch; None means the main branch.
            device: as PyTorch names it.
            dtype: of the weights, as PyTorch names it.
            max_new_tokens: longest answer.
            num_beams: of the search for the most likely answer.

        Raises:
            InputError: it cannot be had or loaded.
        """
        self._torch = import_extra("torch", "Florence-2", REMEDY)
        folder, self.about = fetch(model, revision, "MIT")
        self._model = load("Florence2ForConditionalGeneration", folder, device, dtype)
        self._processor = load_processor("Florence2Processor", folder)
        self._generation = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}

    def caption(self, image: Image.Image, attempt: int) -> str:
        """Give a caption; see `Captioner`."""
        task = CAPTION_TASKS[attempt]
        answer = self._answer(image, task)
        parsed = self._processor.post_process_generation(answer, task=task, image_size=image.size)
        return plain(parsed[task])

    def ground(self, image: Image.Image, caption: str) -> list[Phrase]:
        """Give the caption's phrases with their boxes; see `Grounder`."""
        answer = self._answer(image, GROUNDING_TASK + caption)
        # Not post_process_generation, which does not tell two boxes of a phrase from two phrases.
        parsed = self._processor.post_processor(
            text=answer, image_size=image.size, parse_tasks=["phrase_grounding"]
        )["phrase_grounding"]
        spans = locate(caption, [found["cat_name"] for found in parsed])
        return [
            Phrase(*span, tuple(tuple(map(float, box)) for box in found["bbox"]))
            for span, found in zip(spans, parsed, strict=True)
            if span is not None
        ]

    def _answer(self, image: Image.Image, prompt: str) -> str:
        """Give the text that the network writes, with its special tokens."""
        inputs = self._processor(text=prompt, images=image, return_tensors="pt")
        inputs = inputs.to(self._model.device, self._model.dtype)
        with self._torch.inference_mode():
            tokens = self._model.generate(**inputs, do_sample=False, **self._generation)
        return self._processor.batch_decode(tokens, skip_special_tokens=False)[0]


def plain(answer: str) -> str:
    """Take special tokens out of a caption, and the words that speak of the picture itself."""
    text = " ".join(re.sub(r"<[^<>]*>", " ", answer).split())
    said = _OPENING.match(text)
    return text[said.end() :][:1].upper() + text[said.end() + 1 :] if said else text


def locate(caption: str, phrases: Sequence[str]) -> list[tuple[int, int] | None]:
    """Find phrases in the caption that they were taken from.

    transformers takes everything but ASCII out of Florence-2's phrases, and so they are looked for
    in what is left of the caption. Each is looked for after the one before it, and then anywhere.

    Args:
        phrases: in the order of the caption.

    Returns:
        Of each the number of characters before its start and up to its end; None if it is nowhere.
    """
    places = [place for place, letter in enumerate(caption) if letter.isascii()]
    plain = "".join(caption[place] for place in places)
    spans: list[tuple[int, int] | None] = []
    after = 0
    for phrase in phrases:
        words = r"\s+".join(map(re.escape, phrase.split()))
        pattern = re.compile(rf"(?<![A-Za-z0-9]){words}(?![A-Za-z0-9])", re.IGNORECASE)
        found = words and (pattern.search(plain, after) or pattern.search(plain))
        if not found:
            spans.append(None)
            continue
        after = found.end()
        end = places[after - 1] + 1
        # The rest of a last word, "a caf" of "a café", is the phrase's too.
        while end < len(caption) and not caption[end].isascii() and caption[end].isalnum():
            end += 1
        spans.append((places[found.start()], end))
    return spans
