"""Every block of the documentation runs, on the toy world; CONTRIBUTING.md has the rules."""

import importlib
import re
import shlex
import subprocess
import sys
import warnings
from copy import copy
from functools import cache, partial
from pathlib import Path

import jax
import pytest
from PIL import Image
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import CodeBlockParser
from sybil.parsers.rest import DocTestParser

from examples import gallery, toy_files
from moa_jax.applications import edit, frames
from moa_jax.commands import sample, train
from moa_jax.data import __main__ as data
from moa_jax.hub import __main__ as hub
from moa_jax.sampling import pipeline
from moa_jax.sampling.load import load
from moa_jax.sampling.settings import Settings
from moa_jax.toyworld import __main__ as toyworld
from moa_jax.training import run as training

ROOT = Path(__file__).parents[1]
DOCS = [p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts]
PAGES = {p.relative_to(ROOT).as_posix(): p for p in [*sorted(ROOT.glob("*.md")), *DOCS]}

STAND_INS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "moa_jax/toyworld/weights/base",
    "lllyasviel/sd-controlnet-canny": "moa_jax/toyworld/weights/outline",
    "runs/sd15_ffhq": "moa_jax/toyworld/weights/moa",
}
STEPS = 4  # of every drawing
QUICK = ("docs/start.md",)  # pages that `make test` runs; the others compile for longer
LONG = ("docs/applications.md", "docs/extending.md", "docs/toy-world.md")  # `make nightly` alone
COMMANDS = {
    "sample.py": sample.main,
    "train.py": train.main,
    "examples/toy_files.py": lambda folder: toy_files.main(Path(*folder), pictures=4),
    "-m moa_jax.toyworld": toyworld.main,
    "-m moa_jax.data": data.main,
    "-m moa_jax.hub": hub.main,
}
SHORTER = {  # arguments that a command gets at its end
    "sample.py": f"--steps {STEPS} --num-images 1",
    "sample.py morph": f"--steps {STEPS}",
    "sample.py timelapse": f"--steps {STEPS}",
    "sample.py edit": f"--steps {STEPS}",
    # One program for all configs, without what takes long to compile: the probe and Muon.
    "train.py": "model.base=moa_jax/toyworld/weights/base model.image_encoder=none "
    "method.image_encoder_layers=0 method.max_subjects=2 method.initial_personalized_weight=0.5 "
    "method.router_loss_weight=0.1 data.resolution=64 data.workers=0 data.augment=false "
    "optimizer.accumulation=1 optimizer.muon_learning_rate=none optimizer.ema_decay=none "
    "optimizer.schedule=constant optimizer.warmup_steps=0 optimizer.router_start=0 "
    "train.steps=2 train.batch_size=2 train.log_every=9 train.sample_every=none",
    "-m moa_jax.toyworld": "--count 8 --workers 1",
    "-m moa_jax.data bench": "--seconds 0.1 --batch-size 1",
}
NOT_RUN = [  # the page, and how the block begins
    ("CONTRIBUTING.md", "make test"),
    ("README.md", "make demo"),
    ("README.md", "python -m moa_jax.toyworld runs/toy_data"),
    ("docs/applications.md", "FILE=dreamy.safetensors"),
    ("docs/applications.md", "from moa_jax.backbone import stable_diffusion"),
    ("docs/extending.md", "python train.py configs/toy.py 'method.mixture=examples.lora_exp"),
    ("docs/extending.md", "python train.py configs/toy.py method.mixture=prompts:BothSides "),
    ("docs/extending.md", "python train.py configs/toy.py 'method.extra_loss=examples.extra"),
    ("docs/faces.md", "pip install 'moa_jax[faces]'"),
    ("docs/fastcomposer.md", "pip install 'moa_jax[import]'"),
    ("docs/fastcomposer.md", "python sample.py --base fastcomposer/base --moa fastcomposer --s"),
    ("docs/fastcomposer.md", "python -m moa_jax.evaluation faces --people people --base fastco"),
    ("docs/mixtures.md", "python train.py configs/toy.py 'method.mixture=moa_jax.mixtures."),
    ("docs/mixtures.md", "python -m benchmarks.lab --out docs"),
    ("docs/page.md", "pip install 'moa_jax[page]'"),
    ("docs/page.md", "python -m moa_jax.page --base stable-diffusion-v1-5/stable-diffu"),
    ("docs/performance.md", "python -m benchmarks.sampling --out results"),
    ("docs/scale.md", "python -m benchmarks.scale --out docs/scale"),
    ("docs/start.md", "make demo"),
    ("docs/start.md", "python -m venv .venv && source .venv/bin/activate"),
    ("docs/toy-world.md", "python -m moa_jax.evaluation toy --moa runs/toy"),
    ("docs/tpu.md", "pip install -e '.[tpu]'"),
    ("docs/tpu.md", "python train.py configs/sd15_ffhq.py mesh.preset=fsdp train.batc"),
    ("docs/train.md", "python -m moa_jax.data build my_photographs my_people"),
    ("docs/train.md", "python -m moa_jax.data build my_photographs my_people \\"),
    ("docs/train.md", "python -m moa_jax.hub push runs/mine owner/moa-mine --private \\"),
    ("docs/train.md", "from moa_jax import MoAWeights"),
]
MARKER = re.compile(r"<!-- not run: \S.* -->\n\Z")
LANGUAGES = {"python", "sh", "json", "text", "bibtex"}  # or a directive of MyST


class Page:
    """Runs the blocks of one page, in the folder that is the working directory."""

    def __init__(self):
        self.variables, self.names, self.modules = [], {}, []

    def python(self, example):
        """Execute a block; one that begins with `# NAME.py` is that module."""
        source = replaced(example.parsed)
        if module := re.match(r"# (\w+)\.py\n", source):
            Path(f"{module[1]}.py").write_text(source)
            importlib.invalidate_caches()
            self.modules.append(module[1])
            self.names |= vars(importlib.import_module(module[1]))
        else:
            lines = "\n" * (example.line + example.parsed.line_offset)  # for the traceback
            exec(compile(lines + source, example.path, "exec"), self.names)

    def sh(self, example):
        """Run the `python` commands that bash would run, in this process: starting it is slow."""
        block = replaced(example.parsed)
        for arguments in self.commands(block):
            name = " ".join(arguments[: 1 + (arguments[0] == "-m")])
            longer = " ".join([name, *arguments[len(name.split()) :][:1]])
            given = arguments[len(name.split()) :]
            given += shlex.split(SHORTER.get(longer, SHORTER.get(name, "")))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert COMMANDS[name](given) in (0, None), arguments
        self.variables += re.findall(r"^[A-Z]+=.*", block, re.MULTILINE)

    def commands(self, block):
        """Let bash read a block; it finds no other program than `python`."""
        told = "python() { printf '%s\\0' $# \"$@\"; }\n"
        script = "\n".join([told, *self.variables, block])
        bash = ["/bin/bash", "-euc", script]
        done = subprocess.run(bash, env={"PATH": ""}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        words = done.stdout.split("\0")[:-1]
        while words:
            count = int(words.pop(0))
            yield words[:count]
            words = words[count:]


def replaced(text):
    for theirs, ours in STAND_INS.items():
        text = text.replace(theirs, ours)
    return str(text)


def blocks(path, python=None, sh=None):
    """The blocks of a page, and whether each is to be run."""
    parsers = [CodeBlockParser("python", python), CodeBlockParser("sh", sh)]
    document = Sybil(parsers=parsers).parse(path)
    for example in document.examples():
        yield example, not MARKER.search(document.text[: example.region.start])


def pages_with_blocks():
    names = [name for name, path in PAGES.items() if any(run for _, run in blocks(path))]
    slow, nightly = pytest.mark.slow, pytest.mark.nightly
    marks = (
        dict.fromkeys(names, [slow])
        | dict.fromkeys(QUICK, [])
        | dict.fromkeys(LONG, [slow, nightly])
    )
    return [pytest.param(name, marks=marks[name], id=name) for name in names]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder for the pages: the project's files, and those that the commands name."""
    folder = tmp_path_factory.mktemp("project")
    toy_files.main(folder, pictures=4)
    for name in ("train.py", "sample.py", "configs", "examples", "moa_jax"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def page(project, tmp_path, monkeypatch):
    for path in project.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(training, "train", partial(training.train, devices=jax.devices()[:1]))
    for module in (pipeline, edit_module(), frames):
        monkeypatch.setattr(module, "Settings", partial(Settings, num_inference_steps=STEPS))
    monkeypatch.setattr(pipeline.Pipeline, "from_pretrained", shared_pipeline)
    page = Page()
    yield page
    for name in page.modules:
        del sys.modules[name]


def shared_pipeline(base, moa=None, dtype=None, **options):
    """Load each model once for all pages, which then share its compiled programs."""
    options["controlnets"] = tuple(options.get("controlnets", ()))
    folders = (path and str(Path(path).resolve()) for path in (base, moa))
    return copy(loaded(*folders, dtype, tuple(options.items())))  # a LoRA stays with its copy


@cache
def loaded(base, moa, dtype, options):
    return pipeline.Pipeline(*load(base, moa, dtype, **dict(options)))


def edit_module():
    return sys.modules[edit.__module__]  # the package offers the function by the module's name


@pytest.mark.parametrize("name", pages_with_blocks())
def test_the_blocks_of_a_page_run(name, page):
    ran = 0
    for example, run in blocks(PAGES[name], page.python, page.sh):
        if run:
            example.evaluate()
            ran += 1
    assert ran


def test_what_is_not_run_is_listed_here():
    found = []
    for name, path in PAGES.items():
        for example, run in blocks(path):
            if not run:
                found.append((name, re.sub(r" +#.*", "", example.parsed.split("\n")[0])[:64]))
    assert found == NOT_RUN


def test_every_block_has_a_language_that_is_run_or_cannot_be():
    for name, path in PAGES.items():
        opened = re.findall(r"^```+(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[::2]
        assert all(each in LANGUAGES or each.startswith("{") for each in opened), (name, opened)


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((ROOT / "moa_jax").rglob("*.py")) if ">>>" in p.read_text()],
    ids=lambda path: path.stem,
)
def test_the_examples_in_docstrings_hold(path):
    document = PythonDocStringDocument.parse(str(path), DocTestParser())
    document.evaluators.clear()  # the examples import what they use
    for example in document.examples():
        example.evaluate()


def test_the_interactive_picture_has_a_map_for_each_of_its_names():
    folder = ROOT / "docs" / "applications"
    text = (folder / "routing_sheet.js").read_text()
    shares = eval(re.fullmatch(r"const routingSheet = (\{.*\});\n", text)[1])
    (steps,) = {len(row) for row in shares.values()}
    with Image.open(folder / "routing_sheet.png") as sheet:
        assert sheet.size == (gallery.TILE * steps, gallery.TILE * len(shares))
