"""All that makes a picture, except the pictures of people: what a form holds and a link says."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from moa_jax.diffusion import SAMPLERS
from moa_jax.errors import InputError
from moa_jax.page.prompt import find_words
from moa_jax.sampling.settings import Settings

MAX_PROMPT = 2_000  # characters; four windows of the text encoder are fewer
MAX_PEOPLE = 4
MAX_SEED = 2**32 - 1
# The least and the most of each number, on the page's sliders and in a link.
RANGES = {"seed": (0, MAX_SEED), "steps": (1, 100), "guidance": (1.0, 20.0), "dial": (0.0, 4.0)}


@dataclass(frozen=True)
class Setup:
    """What to draw and how.

    Attributes:
        prompt: without markers.
        bindings: which subject (counted from 1) a word (counted from 0) is.
        people: the number in the toy world of each subject; None for a picture of one's own.
        seed: of the noise.
        steps: of the sampler.
        guidance: its scale; 1 is off.
        dial: factor of the personalized expert's weight: 0 is the prior, 1 is as trained.
        sampler: one of `SAMPLERS`, or the one that the command line named.
        negative: what to lead away from.
    """

    prompt: str
    bindings: Mapping[int, int] = field(default_factory=dict)
    people: tuple[int | None, ...] = ()
    seed: int = 0
    steps: int = 25
    guidance: float = 5.0
    dial: float = 1.0
    sampler: str = "unipc"
    negative: str = ""

    def __post_init__(self) -> None:
        """Refuse what no form would hold.

        Raises:
            InputError: a value is out of range; the message names it and the range.
        """
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"{name}={value:g}: must lie between {least:g} and {most:g}")
        for name in ("prompt", "negative"):
            length = len(getattr(self, name))
            if length > MAX_PROMPT:
                raise InputError(f"{name} has {length} characters: at most {MAX_PROMPT}")
        if len(self.people) > MAX_PEOPLE:
            raise InputError(f"people: there are {len(self.people)}, at most {MAX_PEOPLE}")
        words = len(find_words(self.prompt))
        for word, subject in self.bindings.items():
            if not 0 <= word < words:
                raise InputError(f"words: there is no word {word + 1} in {self.prompt!r}")
            if not 1 <= subject <= len(self.people):
                raise InputError(
                    f"words: there is no subject {subject}: add a picture, or click the word "
                    f"{find_words(self.prompt)[word].text!r} until it is nobody"
                )

    def settings(self, given: Settings) -> Settings:
        """Make the pipeline's settings.

        Args:
            given: the command line's, for all that the page does not ask.
        """
        # What only one sampler takes must not go to another.
        same = self.sampler == given.sampler
        return replace(
            given,
            num_inference_steps=self.steps,
            sampler=self.sampler,
            guidance_scale=self.guidance,
            moa_strength=self.dial,
            eta=given.eta if same else None,
            karras=given.karras and same,
        )


def sampler_choices(given: str) -> list[str]:
    """List the samplers to choose from: the built-in ones, and the one of the command line."""
    return list(dict.fromkeys([given, *SAMPLERS]))
