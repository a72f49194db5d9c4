"""MoA weights as one object: load them from anywhere, save them, push them to the hub."""

import math
import os
import shutil
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelHubMixin

from moa_jax.backbone.hub import explain, failures
from moa_jax.errors import InputError
from moa_jax.hub.about import About
from moa_jax.hub.card import Facts, card_data, card_text
from moa_jax.hub.measured import own_table, read_table
from moa_jax.method.source import find_moa
from moa_jax.method.weights import (
    CARD_NAME,
    WEIGHTS_NAME,
    MoaCard,
    read_moa_card,
    read_shapes,
)

TAGS = "arxiv:2404.11565 flax image-personalization jax mixture-of-attention moa stable-diffusion"


class MoAWeights(
    ModelHubMixin,
    library_name="moa_jax",
    pipeline_tag="text-to-image",
    paper_url="https://arxiv.org/abs/2404.11565",
    tags=TAGS.split(),
):
    """Trained MoA weights: the folder of `moa.safetensors` and `moa.json`.

    The files are copied as they are, byte by byte, and no network is built from them: that is
    `Pipeline.from_pretrained(base, moa=...)`, which takes the same sources.

    Attributes:
        folder: where the two files are.
        card: what `moa.json` says.
    """

    folder: Path
    card: MoaCard

    def __init__(self, folder: str | Path) -> None:
        """Read `moa.json`, and check that the weights beside it are its own and are whole.

        Raises:
            InputError: a file is missing, damaged, or not of the other; or `moa.json` names a
                variant whose module this program has not imported.
        """
        self.folder = Path(folder)
        self.card = read_moa_card(self.folder)
        self._sizes  # noqa: B018 (opens the weights)
        self._hub_mixin_config = None  # `moa.json` is it: the mixin writes no config.json beside it

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> "MoAWeights":
        """Load MoA weights, and download them if need be.

        Args:
            source: a folder; a hub id, "owner/name" or "owner/name@revision"; or a folder in a
                bucket, "gs://bucket/folder".
            revision: of a hub id: a branch, a tag or a commit; None means the main branch.
            token: of the hub; None means the one of HF_TOKEN or `hf auth login`.
            cache_dir: where downloads from the hub are kept; None means the hub's own cache.
            force_download: download from the hub even what is there.
            local_files_only: do not ask the hub, and take what its cache has.

        Raises:
            InputError: they are not found, cannot be downloaded, or are damaged; the message says
                why, and what to do.
        """
        # Not the mixin's own, which looks for a config.json, and knows no buckets.
        return cls._from_pretrained(
            model_id=os.fspath(source),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None = None, **options: Any
    ) -> "MoAWeights":
        # False is the hub's own default of its switches.
        given = {key: value or None for key, value in options.items() if key != "token"}
        token = options.get("token")  # here False means: none
        return cls(find_moa(model_id, "source", revision=revision, token=token, **given))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        model_card_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> str | None:
        """Write `moa.safetensors`, `moa.json` and README.md, the model card, into a folder.

        A README.md that is there already is left alone.

        Args:
            save_directory: made if absent.
            model_card_kwargs: the fields of `About`, if they are not given one by one.
            options: fields of `About` (`licence`, `data`, ...); further ones are those of
                `ModelHubMixin.save_pretrained`, such as `push_to_hub=True`.

        Raises:
            InputError: the folder is that of another model, or cannot be written.
        """
        folder = Path(save_directory)
        if (folder / "config.json").exists():  # which the mixin would delete
            raise InputError(
                f"save_directory={str(folder)!r} has a config.json, which is another model's: give "
                "another folder"
            )
        told = {key: options.pop(key) for key in _ABOUT if key in options}
        about = {**(model_card_kwargs or {}), **told}
        return super().save_pretrained(folder, model_card_kwargs=about, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        if save_directory.resolve() == self.folder.resolve():
            return
        for name in (WEIGHTS_NAME, CARD_NAME):
            try:
                shutil.copyfile(self.folder / name, save_directory / name)
            except OSError as error:
                raise InputError(f"{save_directory / name} cannot be written: {error}") from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        commit_message: str = "Push MoA weights",
        token: str | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **about: Any,
    ) -> str:
        """Push `moa.safetensors`, `moa.json` and README.md, the model card, in one commit.

        Nothing else of the folder is pushed. The repository is made if it is not there.

        Args:
            repo_id: "owner/name".
            private: whether a new repository is private; None means the owner's default, which for
                most is public.
            branch: made if it is not there; None means the main branch.
            create_pr: propose the commit to the owner instead of making it.
            token: of the hub; None means the one of HF_TOKEN or `hf auth login`.
            model_card_kwargs: the fields of `About`, if they are not given one by one.
            about: fields of `About`; `licence` and `data` must be among them.

        Returns:
            The address of the commit; its `pr_url` is that of the pull request.

        Raises:
            InputError: the licence or a word about the data is missing, or the hub refuses.
        """
        told = {**(model_card_kwargs or {}), **about, "repo_id": repo_id}
        About(**told).require_complete()
        self.generate_model_card(**told)  # its faults come before any repository is made
        try:
            if branch is not None:
                api = HfApi(token=token)
                api.create_repo(repo_id, private=private, exist_ok=True)
                api.create_branch(repo_id, branch=branch, exist_ok=True)
            return super().push_to_hub(
                repo_id,
                private=private,
                branch=branch,
                create_pr=create_pr,
                commit_message=commit_message,
                token=token,
                model_card_kwargs=told,
            )
        except InputError:
            raise
        except failures() as error:
            raise InputError(
                f"repo_id={repo_id!r}: the Hugging Face hub does not take the weights: "
                f"{explain(error, repo_id, branch)}"
            ) from error

    def generate_model_card(self, **about: Any) -> ModelCard:
        """Write the model card.

        Args:
            about: fields of `About`.

        Raises:
            InputError: one has the wrong form, or the evaluation cannot be read.
        """
        told = About(**about)
        table = own_table(self.folder, self.card)
        if told.evaluation is not None:
            table = read_table(told.evaluation)
        facts = Facts(self.card, sum(self._sizes.values()), self._bytes, table)
        tags = list(self._hub_mixin_info.model_card_data.tags or ())
        data = card_data(self.card, told, tags)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(facts, told)}")

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """How many numbers each tensor has; only the head of the file is read."""
        shapes = read_shapes(self.folder)
        return {key: math.prod(shape) for key, shape in shapes.items()}

    @property
    def _bytes(self) -> int:
        return (self.folder / WEIGHTS_NAME).stat().st_size


_ABOUT = tuple(field.name for field in fields(About) if field.name != "repo_id")
