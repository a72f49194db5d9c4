"""The pictures of `docs/applications.md`: what each application does, on the toy world.

From the project's root: `python examples/gallery.py [FOLDER]`; FOLDER is docs/applications by
default.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageFilter

from moa_jax.applications import edit, morph, timelapse
from moa_jax.cli import track
from moa_jax.figures import (
    attention_figure,
    colorize,
    layer_group,
    mean_weights,
    picture_table,
    routing_frames,
    share_figure,
)
from moa_jax.figures.animation import save_animation
from moa_jax.runtime import keep_programs
from moa_jax.sampling.control import Control
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.pictures import photo, portrait
from moa_jax.toyworld.pretraining.addons import outlines

WEIGHTS = Path("moa_jax/toyworld/weights")
BASE, MOA = WEIGHTS / "base", WEIGHTS / "moa"
STYLE, OUTLINE = WEIGHTS / "style.safetensors", WEIGHTS / "outline"
DRAW = {"num_inference_steps": 25, "guidance_scale": 2.5}
BEACH = "waving with a balloon on the beach at sunset"
GARDEN = "standing with a dog in the garden by day"
FRAMES = 9
TILE = 32  # pixels of a map in the sheet of all maps

Gallery = Callable[[Pipeline, Path], None]


SHE, HER, THIRD, HE = portrait(1), portrait(2), portrait(5), portrait(7, "man")


def large(picture: Image.Image, side: int = 192) -> Image.Image:
    """Enlarge a picture of the toy world."""
    return picture.resize((side, side), Image.BICUBIC)


def first(pipe: Pipeline, *arguments: Any, **options: Any) -> Image.Image:
    """Draw one picture."""
    return pipe(*arguments, **{**DRAW, **options}).images[0]


def several(pipe: Pipeline, folder: Path) -> None:
    """Draw two people, the same person twice, and one person beside a word without a picture."""
    he, she = "a man <|image|>", "a woman <|image|>"
    asked = (
        (f"{he} and {she} {BEACH}", [HE, SHE], "him and her"),
        (f"{she} and {she} {GARDEN}", [HER, HER], "the same one twice"),
        (f"{she} and a man {GARDEN}", [SHE], "her and any man"),
    )
    drawn = [first(pipe, prompt, subjects, seed=2) for prompt, subjects, _ in asked]
    table([[HE, SHE, *drawn]], ["him", "her", *(head for *_, head in asked)], folder / "several")


def swap(pipe: Pipeline, folder: Path) -> None:
    """Draw several people from one noise."""
    people = (SHE, HER, THIRD)
    prompt = f"a woman <|image|> {GARDEN}"
    prior = first(pipe, prompt, [SHE], moa_strength=0.0, seed=4)
    drawn = [first(pipe, prompt, [each], seed=4) for each in people]
    heads = ["the prior", "first", "second", "third"]
    table([[None, *people], [prior, *drawn]], heads, folder / "swap")


def morphing(pipe: Pipeline, folder: Path) -> None:
    """Draw one person becoming another."""
    drawn = morph(pipe, f"a woman <|image|> {BEACH}", [SHE], HER, FRAMES, seed=3, **DRAW).images
    save_animation([large(each) for each in drawn], folder / "morph.gif", bounce=True)
    table([drawn], [""] * FRAMES, folder / "morph", size=96)


def aging(pipe: Pipeline, folder: Path) -> None:
    """Draw a kid becoming a woman; the toy world has no older people."""
    prompt = f"a {{word}} <|image|> {BEACH}"
    drawn = timelapse(pipe, prompt, ["kid", "woman"], [SHE], FRAMES, seed=3, **DRAW).images
    save_animation([large(each) for each in drawn], folder / "timelapse.gif", bounce=True)
    table([drawn], [""] * FRAMES, folder / "timelapse", size=96)


def style(_: Pipeline, folder: Path) -> None:
    """Draw with a LoRA on no expert, on one of them, and on both."""
    prompt, heads = f"a woman <|image|> {GARDEN}", ["none", "prior", "personalized", "both"]
    drawn = []
    for experts in heads:
        pipe = Pipeline.from_pretrained(BASE, MOA)  # a new one, without the LoRA of the last turn
        if experts != "none":
            pipe.add_lora(STYLE, 1.0, experts)
        drawn.append(first(pipe, prompt, [SHE], seed=4))
    table([drawn], heads, folder / "style")


def control(_: Pipeline, folder: Path) -> None:
    """Draw two people to an outline, and one of them without it."""
    pipe = Pipeline.from_pretrained(BASE, MOA, controlnets=[OUTLINE])
    _, mask = photo(11)
    outline = Image.fromarray(np.asarray(outlines(jnp.asarray(mask)[None] > 0)))
    prompt = f"a woman <|image|> {GARDEN}"
    led = partial(first, pipe, prompt, seed=4, controls=[Control(outline)])
    drawn = [outline, led([SHE]), led([HER]), first(pipe, prompt, [SHE], seed=4)]
    heads = ["the outline", "first", "second", "first, without it"]
    table([drawn], heads, folder / "control")


def photos(pipe: Pipeline, folder: Path) -> None:
    """Draw a photo again from its noise, and put other people into it."""
    seen, mask = photo(11)
    prompt = f"a woman <|image|> {GARDEN}"
    swapped = partial(edit, pipe, seen, prompt, source_prompt=prompt.replace(" <|image|>", ""))
    options = {"num_inference_steps": 25, "guidance_scale": 1.5}
    plain, other = (swapped([who], **options) for who in (SHE, HER))
    around = _grown(mask, 9)  # by 4 pixels on each side
    kept = swapped([SHE], mask=around, **options).result.images[0]
    drawn = [seen, plain.reconstruction, *(e.result.images[0] for e in (plain, other)), kept]
    heads = ["photo", f"again: {plain.error:.0f} dB", "her", "another", "her, with a mask"]
    table([drawn], heads, folder / "edit")
    inside = first(pipe, prompt, [HER], image=seen, mask=around, seed=1)
    through = [first(pipe, prompt, [HER], image=seen, strength=s, seed=1) for s in (0.4, 0.6, 0.8)]
    heads = ["photo", "mask", "inpainted", "strength 0.4", "0.6", "0.8"]
    table([[seen, around, inside, *through]], heads, folder / "photo")


def strength(pipe: Pipeline, folder: Path) -> None:
    """Turn the dial from the prior to the personalized expert."""
    values = (0.0, 0.25, 0.5, 1.0, 2.0, 9.0)
    prompt = f"a woman <|image|> {BEACH}"
    drawn = [first(pipe, prompt, [SHE], moa_strength=value, seed=3) for value in values]
    table([drawn], [f"{value:g}" for value in values], folder / "strength")


def inside(pipe: Pipeline, folder: Path) -> None:
    """Show who draws what: shares, attention, and the routing during drawing."""
    prompt = f"a man <|image|> and a woman <|image|> {BEACH}"
    result = pipe(prompt, [HE, SHE], seed=2, watch=True, **DRAW)
    seen = (result.attention, 0, ["him", "her"])
    share_figure(result.routing, *seen).save(folder / "share.png")
    attention_figure(result.images[0], *seen).save(folder / "attention.png")
    frames = [each.resize((256, 256 * each.height // each.width)) for each in
              routing_frames(result.images[0], result.routing, 0)]  # fmt: skip
    save_animation(frames, folder / "routing.gif")
    large(result.images[0], 256).save(folder / "routing_picture.webp")
    routing_sheet(result.routing, folder)


def routing_sheet(routing: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write one picture's routing for `docs/_static/routing.js`: maps, and what they are of.

    `routing_sheet.png` has a column for each step and a row for each layer, below a row of the mean
    over the layers. `routing_sheet.js` holds the rows' names and the mean weight of each map.
    """
    steps = len(next(iter(routing.values())))
    mean = [mean_weights({p: w[[step]] for p, w in routing.items()}) for step in range(steps)]
    rows = {"all layers": mean} | {_layer(path): maps[:, 0] for path, maps in routing.items()}
    maps = [[Image.fromarray(colorize(each)).resize((TILE, TILE), Image.NEAREST) for each in row]
            for row in rows.values()]  # fmt: skip
    sheet = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in maps]))
    sheet.quantize(128).save(folder / "routing_sheet.png", optimize=True)
    shares = {name: [round(float(each.mean()), 2) for each in row] for name, row in rows.items()}
    text = f"const routingSheet = {json.dumps(shares)};\n"
    (folder / "routing_sheet.js").write_text(text)


def _layer(path: str) -> str:
    """Name a layer as a reader of the paper would: its stage, its place there, and its kind."""
    stage, kind = layer_group(path)
    place = re.search(r"attentions\.(\d+)", path)
    return f"{stage}, block {place[1] if place else 0}, {kind}"


GALLERY: tuple[Gallery, ...] = (
    *(several, swap, morphing, aging, style, control, photos, strength, inside),
)


def table(
    rows: Sequence[Sequence[Image.Image | None]], heads: Sequence[str], path: Path, size: int = 128
) -> None:
    """Write pictures in rows under their heads."""
    picture_table(rows, heads, size).save(path.with_suffix(".png"))


def _grown(mask: Image.Image, pixels: int) -> Image.Image:
    return mask.filter(ImageFilter.MaxFilter(pixels))


def main(folder: Path) -> int:
    """Draw the whole gallery."""
    folder.mkdir(parents=True, exist_ok=True)
    keep_programs()
    pipe = Pipeline.from_pretrained(BASE, MOA)
    for draw in track(GALLERY, "drawing"):
        draw(pipe, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/applications")))
