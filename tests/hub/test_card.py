"""The card says what the files and the author say, in front matter that the hub understands."""

import dataclasses
import json
import re

import pytest
from huggingface_hub import ModelCard

from moa_jax import InputError, MoAWeights
from moa_jax.config import Config, DataConfig, MethodConfig, ModelConfig, OptimizerConfig
from moa_jax.extension import import_plugin
from moa_jax.hub import __main__ as command
from moa_jax.hub.about import About
from moa_jax.hub.card import Facts, base_id, card_data, card_text, own_paths
from moa_jax.method.weights import Identity, MoaCard
from moa_jax.toyworld import WEIGHTS

SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CARD = MoaCard(
    Config(
        model=ModelConfig(base=SD, image_encoder="openai/clip-vit-large-patch14"),
        method=MethodConfig(max_subjects=3, router_loss_weight=0.25, mask_probability=0.4),
        data=DataConfig(path="/home/jane/ffhq", resolution=512),
        optimizer=OptimizerConfig(learning_rate=2e-5, muon_learning_rate=0.03, ema_decay=0.999),
    ),
    Identity(SD, "openai/clip-vit-large-patch14", {"unet": "f160fbe4" * 8, "vae": "00112233" * 8}),
    step=1234,
)
FULL = About(
    licence="other",
    licence_name="my-licence",
    licence_link="https://example.org/licence",
    data="70,000 portraits of FFHQ.",
    consent="The photographers chose free licences; the people were not asked.",
    datasets=("owner/ffhq", "mnist"),
    repo_id="me/moa-sd15",
)


def rendered(card=CARD, about=FULL, table=None):
    text = card_text(Facts(card, 12_345_678, 50_000_000, table), about)
    front = card_data(card, about, ["moa", "jax"])
    return ModelCard(f"---\n{front.to_yaml()}\n---\n\n{text}")


def section(card, title):
    found = re.search(rf"(?ms)^## {re.escape(title)}\n\n(.*?)(?=^## |\Z)", card.text)
    assert found, f"no {title}"
    return found[1]


def with_config(**sections):
    return dataclasses.replace(CARD, config=dataclasses.replace(CARD.config, **sections))


def test_the_front_matter_holds_every_field_that_the_hub_reads():
    assert rendered().data.to_dict() == {
        "license": "other",
        "license_name": "my-licence",
        "license_link": "https://example.org/licence",
        "library_name": "moa_jax",
        "pipeline_tag": "text-to-image",
        "base_model": SD,
        "base_model_relation": "adapter",
        "datasets": ["owner/ffhq", "mnist"],
        "tags": ["moa", "jax"],
    }


def test_what_nobody_said_is_not_in_the_front_matter_and_the_text_says_so():
    card = rendered(about=About())
    assert set(card.data.to_dict()) == {
        "library_name",
        "pipeline_tag",
        "base_model",
        "base_model_relation",
        "tags",
    }
    assert "Not stated: without a licence nobody may use" in section(card, "Licence")
    assert section(card, "Training data").startswith("Not stated")
    assert "has not said whether the people" in section(card, "Consent and responsible use")
    assert "Nothing was measured" in section(card, "Evaluation")
    assert card.text.lstrip().startswith(f"# MoA weights for {SD}\n")


def test_the_text_says_what_the_files_and_the_author_say():
    card = rendered(table="| a | b |\n| --- | --- |\n| identity | 0.5 |")
    top = card.text.partition("## ")[0]
    assert top.lstrip().startswith("# moa-sd15\n")
    for words in (
        f"`{SD}`",
        "1 to 3",
        "512 x 512",
        "12.3 million numbers, 50.0 MB",
        "`my-licence`",
    ):
        assert words in top
    assert section(card, "Training data").strip() == FULL.data
    assert FULL.consent in section(card, "Consent and responsible use")
    assert "[my-licence](https://example.org/licence)" in section(card, "Licence")
    assert "| identity | 0.5 |" in section(card, "Evaluation")
    base = section(card, "Base model")
    assert "`openai/clip-vit-large-patch14`" in base
    assert "| unet | `f160fbe4f160fbe4` |" in base and "| vae | `0011223300112233` |" in base


def test_shapes_are_told_where_pictures_kept_them():
    card = rendered(with_config(data=DataConfig(resolution=512, buckets=True)))
    assert card.text.count("512 x 512 pixels, or as many in shapes of up to 2:1") == 2
    assert "in shapes of" not in rendered().text


def test_the_configuration_is_there_in_short_and_in_full():
    text = section(rendered(), "Training")
    short, _, full = text.partition("<details>")
    for line in (
        "| steps | 1,234 of 150,000 |",
        "| optimizer and learning rate | Muon, 0.03, for matrices; AdamW, 2e-05, for the rest |",
        "| average of the weights (EMA) | 0.999 |",
        "| weight of the router loss | 0.25 (mean) |",
        "| masked loss | 40 % of the pictures, on the people alone |",
    ):
        assert line in short
    assert "the router and the prompt network, and the last 2 layers of the image encoder" in short
    lines = [line.partition(" = ") for line in full.split("```")[1].strip().splitlines()]
    listed = {key: json.loads(value) for key, _, value in lines}
    sections = dataclasses.asdict(CARD.config).items()
    held = {f"{name}.{key}": value for name, values in sections for key, value in values.items()}
    assert listed == held | {"data.path": ".../ffhq"}


def test_a_path_of_the_author_is_shortened_and_listed():
    card = with_config(model=ModelConfig(base="~/sd", moa="/home/jane/runs/first"))
    text = rendered(card).text
    assert "jane" not in text and 'data.path = ".../ffhq"' in text
    assert "began with | the MoA weights `.../first`" in text and 'model.base = ".../sd"' in text
    assert own_paths(CARD) == {"data.path": "/home/jane/ffhq"}
    own = {"model.base": "~/sd", "model.moa": "/home/jane/runs/first"}
    assert own_paths(card) == own | own_paths(CARD)


def test_the_base_is_named_to_the_hub_only_where_it_is_one_of_the_hub(tmp_path, monkeypatch):
    local = dataclasses.replace(CARD, identity=dataclasses.replace(CARD.identity, base="my/sd"))
    monkeypatch.chdir(tmp_path)
    assert base_id(local, FULL) == "my/sd"
    (tmp_path / "my/sd").mkdir(parents=True)  # so it was this folder
    assert base_id(local, FULL) is None
    card = rendered(local)
    assert "base_model" not in card.data.to_dict()
    assert "trained on a folder, `my/sd`" in section(card, "Base model")
    named = dataclasses.replace(FULL, base_model=SD)
    assert rendered(local, named).data.base_model == SD


def test_the_example_in_python_and_the_command_are_complete():
    usage = section(rendered(), "How to use")
    python = re.search(r"```python\n(.*?)```", usage, re.S)[1]
    compile(python, "card", "exec")
    assert len(python.splitlines()) == 5
    assert f'Pipeline.from_pretrained("{SD}", moa="me/moa-sd15")' in python
    assert f"python sample.py --base {SD} --moa me/moa-sd15 \\\n" in usage
    assert "--plugin" not in usage
    own = with_config(method=MethodConfig(mixture="sharp:Sharp(sharpness=2.0)"))
    usage = section(rendered(own), "How to use")
    assert "import sharp\nfrom moa_jax import Pipeline" in usage and "--plugin sharp" in usage
    assert "Read it before you import it" in usage
    assert "what the variant adds" in section(rendered(own), "Training")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"licence": "Apache License"}, "licence='Apache License' is no identifier"),
        ({"licence": "other"}, "needs a name and a link"),
        ({"licence": "mit", "licence_name": "x", "licence_link": "y"}, "no other licence has them"),
        ({"licence": "other", "licence_name": "x"}, "needs a name and a link"),
        ({"base_model": "runs/my/base"}, "base_model='runs/my/base' is no id"),
        ({"datasets": ("a b",)}, "datasets='a b' is no id"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_here(told, words):
    with pytest.raises(InputError, match=words):
        About(**told)


def test_the_command_prints_a_card_and_says_what_is_missing(moa_folder, capsys):
    assert command.main(["card", str(moa_folder)]) == 0
    shown = capsys.readouterr()
    assert ModelCard(shown.out).data.library_name == "moa_jax"
    assert "push will ask for --licence" in shown.err and "for --data" in shown.err
    # The tests' base is a folder of this machine, and others will see its name in moa.json.
    assert "names no base model" in shown.err and "identity.base=/" in shown.err
    assert command.main(["push", str(moa_folder), "me/moa"]) == 2
    assert "licence is missing" in capsys.readouterr().err
    told = ["--license", "mit", "--dataset", "a/b", "--dataset", "c/d", "--base-model", SD]
    assert command.main(["card", str(moa_folder), *told]) == 0
    data = ModelCard(capsys.readouterr().out).data
    assert (data.license, data.datasets, data.base_model) == ("mit", ["a/b", "c/d"], SD)


def test_the_committed_weights_have_a_card():
    card = MoAWeights.from_pretrained(WEIGHTS / "moa").generate_model_card(licence="apache-2.0")
    assert card.data.tags == [
        "arxiv:2404.11565",
        "flax",
        "image-personalization",
        "jax",
        "mixture-of-attention",
        "moa",
        "model_hub_mixin",
        "stable-diffusion",
    ]
    assert "| steps | 4,800 of 4,800 |" in card.text and "0.9 million numbers, 3.8 MB" in card.text


def test_a_plugin_lets_weights_of_ones_own_variant_be_published(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_variant.py").write_text("Mine = None\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    asked = []
    monkeypatch.setattr(command, "import_plugin", lambda name: asked.append(import_plugin(name)))
    assert command.main(["card", str(WEIGHTS / "moa"), "--plugin", "own_variant"]) == 0
    assert command.main(["card", str(WEIGHTS / "moa"), "--plugin", "none_such"]) == 2
    assert len(asked) == 1 and "no module 'none_such'" in capsys.readouterr().err
