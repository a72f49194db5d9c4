"""Write pictures as an animation: a GIF, WebP or MP4 file, by its suffix.

MP4 needs ffmpeg, which the extra `video` brings.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from moa_jax.errors import InputError

SAMPLED = 2**15  # pixels, from all frames, by which a palette is chosen


def save_animation(
    frames: Sequence[Image.Image],
    path: str | Path,
    milliseconds: int = 120,
    bounce: bool = False,
) -> None:
    """Write an animation that repeats for ever (an MP4 plays once, if its player does not repeat).

    Args:
        frames: all of one size; equal neighbours may become one frame that stays longer.
        path: ends in .gif, .webp or .mp4.
        milliseconds: how long a frame stays, at least 10; a GIF rounds it to tens.
        bounce: whether to play backwards to the first frame, instead of jumping there.

    Raises:
        InputError: the suffix is another, there are no frames or frames of different sizes,
            `milliseconds` is too small, ffmpeg is missing for an MP4, or the file cannot be
            written.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise InputError(f"{path}: an animation is one of {', '.join(WRITERS)}, by its suffix")
    if milliseconds < 10:
        raise InputError(f"milliseconds={milliseconds}: must be 10 or more")
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        found = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)) or "none at all"
        raise InputError(f"{path}: an animation needs frames of one size, these are {found}")
    pictures = [frame.convert("RGB") for frame in frames]
    if bounce:
        pictures += pictures[-2:0:-1]  # without the two ends, which would show twice in a row
    try:
        WRITERS[path.suffix.lower()](pictures, path, milliseconds)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error


def _write_gif(frames: Sequence[Image.Image], path: Path, milliseconds: int) -> None:
    """Write with one palette and without dithering, so that still parts do not flicker."""
    palette = _palette(frames)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    duration = 10 * round(milliseconds / 10)  # a GIF counts in hundredths of a second
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0)


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """Choose the 256 colours that serve all frames best."""
    pixels = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in frames])
    # The seed is fixed, so that the same frames give the same palette.
    picked = np.random.default_rng(0).integers(len(pixels), size=SAMPLED)
    return Image.fromarray(pixels[None, picked]).quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)


def _write_webp(frames: Sequence[Image.Image], path: Path, milliseconds: int) -> None:
    first, *others = frames
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, quality=90)


def _write_mp4(frames: Sequence[Image.Image], path: Path, milliseconds: int) -> None:
    """Write H.264 that browsers play; an odd side repeats its last pixels to become even."""
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  imageio finds ffmpeg through it
    except ImportError as error:
        raise InputError(
            f"{path}: an MP4 needs ffmpeg: pip install 'moa_jax[video]', or write a .gif or .webp"
        ) from error
    with imageio.get_writer(
        path,
        format="FFMPEG",
        mode="I",
        fps=1000 / milliseconds,
        codec="libx264",
        pixelformat="yuv420p",
        macro_block_size=2,
        quality=8,
    ) as video:
        for frame in frames:
            pixels = np.asarray(frame)
            odd = [(0, side % 2) for side in pixels.shape[:2]]
            video.append_data(np.pad(pixels, [*odd, (0, 0)], mode="edge"))


WRITERS: dict[str, Callable[[Sequence[Image.Image], Path, int], None]] = {
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".mp4": _write_mp4,
}
