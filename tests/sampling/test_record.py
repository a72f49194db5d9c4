"""Records in pictures: read back whole, and understood by the programs that read such pictures."""

import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from moa_jax import __version__
from moa_jax.errors import InputError
from moa_jax.sampling.record import SAMPLER_LABELS, parameters, read_record, write_json, write_png

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
RECORD = {
    "prompt": "a man <|image|> reading in the snow",
    "negative_prompt": "",
    "steps": 50,
    "sampler": "unipc",
    "karras": False,
    "guidance_scale": 5.0,
    "seed": 7,
    "image_index": 2,
    "width": 512,
    "height": 768,
    "model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "moa": "runs/sd15_ffhq",
    "subject": ["him.jpg"],
    "fingerprints": {"unet": "0123456789abcdef" * 4, "vae": "ff" * 32},
    "versions": {"moa_jax": __version__},
}
FIELD = re.compile(r'\s*(\w[\w /-]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


def parse(text):
    """Read a `parameters` text as the programs that show such pictures do: line by line."""
    *lines, last = text.strip().split("\n")
    assert len(FIELD.findall(last)) >= 3  # otherwise they take it for more prompt
    positive, negative, here = [], [], None
    for line in lines:
        if line.startswith("Negative prompt:"):
            here, line = negative, line.removeprefix("Negative prompt:")
        (positive if here is None else here).append(line.strip())
    fields = {
        name: json.loads(value) if value.startswith('"') else value
        for name, value in FIELD.findall(last)
    }
    return "\n".join(positive), "\n".join(negative), fields


def raw_chunks(path):
    """The text chunks of a PNG as its bytes are: kind and content by keyword."""
    data, at, found = path.read_bytes(), 8, {}
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + body)
        if kind in (b"tEXt", b"iTXt"):
            keyword, _, content = body.partition(b"\0")
            found[keyword.decode()] = kind.decode(), content
        at += 12 + length
    return found


def test_the_text_is_the_one_that_other_programs_write():
    assert parameters(RECORD) == (
        "a man <|image|> reading in the snow\n"
        "Steps: 50, Sampler: UniPC, CFG scale: 5, Seed: 7, Image index: 2, Size: 512x768, "
        "Model hash: 0123456789, Model: stable-diffusion-v1-5, MoA: sd15_ffhq, "
        f"Version: moa_jax {__version__}"
    )


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a man, tall, Steps: 3, in the snow", "blurry, dark: very"),
        ("a man\nSampler: DDIM\n\nin the snow", "one\ntwo"),
        ('she says "hello, \\ world"', ""),
        ("Frau mit Hut: größer, 雪の中で 🙂", "rosé"),
        ("", "only: what not, to draw"),
    ],
)
def test_prompts_of_any_kind_are_parsed_back_by_others_and_by_us(tmp_path, prompt, negative):
    record = {**RECORD, "prompt": prompt, "negative_prompt": negative}
    write_png(PICTURE, tmp_path / "a.png", record)
    with Image.open(tmp_path / "a.png") as image:
        text = image.text["parameters"]
    assert ("Negative prompt:" in text) == bool(negative)
    found, unwanted, fields = parse(text)
    assert found == prompt and unwanted == negative
    assert fields["Seed"] == "7" and fields["Size"] == "512x768" and fields["Sampler"] == "UniPC"
    assert read_record(tmp_path / "a.png") == {**record, "format": 1}


def test_names_that_would_end_a_value_are_quoted():
    *_, fields = parse(parameters({**RECORD, "model": 'models/my "best": v2, final'}))
    assert fields["Model"] == 'my "best": v2, final' and fields["MoA"] == "sd15_ffhq"


@pytest.mark.parametrize("name", SAMPLER_LABELS)
def test_samplers_have_the_names_that_others_know(name):
    known = {"DDIM", "DDPM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras", "UniPC", "PLMS"}
    known |= {"LCM"}
    assert parse(parameters({**RECORD, "sampler": name}))[2]["Sampler"] in known


def test_karras_is_part_of_the_name_and_what_is_unset_is_left_out():
    bare = {"prompt": "a man", "steps": 4, "seed": 0, "sampler": "dpm++2m", "karras": True}
    assert parse(parameters(bare))[2] == {
        "Steps": "4",
        "Sampler": "DPM++ 2M Karras",
        "Seed": "0",
        "Version": f"moa_jax {__version__}",
    }
    half = {**RECORD, "guidance_scale": 7.5, "sampler": "new"}
    fields = parse(parameters(half))[2]
    assert fields["CFG scale"] == "7.5" and fields["Sampler"] == "new"


def test_chunks_are_what_the_standard_wants(tmp_path):
    write_png(PICTURE, tmp_path / "ascii.png", RECORD)
    chunks = raw_chunks(tmp_path / "ascii.png")
    assert chunks["parameters"] == ("tEXt", parameters(RECORD).encode("ascii"))
    record = {**RECORD, "prompt": "ein Mann im Schnee, größer 雪"}
    write_png(PICTURE, tmp_path / "unicode.png", record)
    chunks = raw_chunks(tmp_path / "unicode.png")
    kind, content = chunks["parameters"]
    assert kind == "iTXt" and content.endswith(parameters(record).encode("utf-8"))
    kind, content = chunks["moa_jax"]
    assert kind == "tEXt" and json.loads(content.decode("ascii"))["prompt"] == record["prompt"]


def test_the_picture_is_untouched_and_a_record_survives_another_round(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    write_png(PICTURE, first, RECORD)
    with Image.open(first) as image:
        np.testing.assert_array_equal(image, PICTURE)
        write_png(image, second, read_record(first))
    assert read_record(second) == read_record(first)


def test_paths_and_numpy_scalars_come_back_plain(tmp_path):
    record = {"prompt": "a", "moa": tmp_path / "moa", "seed": np.int64(3), "scale": np.float32(0.5)}
    for path, write in ((tmp_path / "a.png", write_png), (tmp_path / "a.json", write_json)):
        write(*([PICTURE] if write is write_png else []), path, record)
        assert read_record(path) == {
            "prompt": "a",
            "moa": str(tmp_path / "moa"),
            "seed": 3,
            "scale": 0.5,
            "format": 1,
        }
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "b.json", {"what": object()})


def test_a_json_from_before_there_were_formats_is_read(tmp_path):
    (tmp_path / "00000.json").write_text(json.dumps(RECORD))
    assert read_record(tmp_path / "00000.json") == RECORD


def test_bytes_that_are_no_characters_do_not_lose_the_picture(tmp_path):
    record = {**RECORD, "prompt": "a man \udce9"}  # how Python passes on a byte it cannot decode
    write_png(PICTURE, tmp_path / "a.png", record)
    assert read_record(tmp_path / "a.png")["prompt"] == record["prompt"]
    assert raw_chunks(tmp_path / "a.png")["parameters"][1].startswith(b"a man ?\n")


def png_with(path, **chunks):
    info = PngInfo()
    for key, text in chunks.items():
        info.add_text(key, text)
    PICTURE.save(path, pnginfo=info)


def test_what_cannot_be_read_is_said(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(InputError, match=r"a\.png: no such file"):
        read_record(path)
    PICTURE.save(path)
    with pytest.raises(InputError, match="no record of moa_jax, no text at all"):
        read_record(path)
    png_with(path, parameters="a man", Software="paint")
    with pytest.raises(InputError, match="only the text chunks parameters, Software"):
        read_record(path)
    png_with(path, moa_jax='{"prompt": "a')
    with pytest.raises(InputError, match=r"a\.png holds a damaged record.*column"):
        read_record(path)
    for other in ("[1, 2]", '{"format": "one"}', "7"):
        png_with(path, moa_jax=other)
        with pytest.raises(InputError, match="holds JSON, but no record"):
            read_record(path)
    png_with(path, moa_jax='{"format": 2}')
    with pytest.raises(InputError, match=r"format 2, and moa_jax .* up to 1: upgrade"):
        read_record(path)
    PICTURE.save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="neither a PNG nor a .json"):
        read_record(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json holds a damaged record"):
        read_record(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path / "b.json")


def test_a_cut_or_missing_file_is_said(tmp_path):
    write_png(PICTURE, tmp_path / "a.png", RECORD)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    for path in (tmp_path / "cut.png", tmp_path):
        with pytest.raises(InputError, match="cannot be read|holds no record"):
            read_record(path)
    for write in (lambda p: write_png(PICTURE, p, RECORD), lambda p: write_json(p, RECORD)):
        with pytest.raises(InputError, match="cannot be written"):
            write(tmp_path / "missing" / "a.png")
