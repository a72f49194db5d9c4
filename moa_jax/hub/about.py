"""What a model card says and the files do not: licence, data, consent. The author has to say it."""

import re
from dataclasses import dataclass
from pathlib import Path

from moa_jax.backbone.hub import HUB_ID
from moa_jax.errors import InputError

LICENCES = "https://huggingface.co/docs/hub/repositories-licenses"
_DATA_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class About:
    """What the card says and the files do not.

    Attributes:
        licence: of the weights, by its identifier on the hub, such as "apache-2.0" or
            "creativeml-openrail-m"; "other" needs the two that follow.
        data: what the weights were trained on, in words: source, how many pictures, whose.
        licence_name: name of a licence that has no identifier.
        licence_link: where that licence can be read.
        consent: what is known about the consent of the people in the training pictures.
        datasets: ids of data sets on the hub.
        base_model: hub id of the base, where the weights were trained on a folder.
        evaluation: a file for `read_table`; None means the `evaluation.json` beside the weights, if
            it is of these weights.
        repo_id: where the weights are pushed to, "owner/name".
    """

    licence: str | None = None
    data: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    consent: str | None = None
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    evaluation: str | Path | None = None
    repo_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what the hub would refuse.

        Raises:
            InputError: a value has the wrong form, or is missing beside another.
        """
        if self.licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.licence):
            raise InputError(
                f'licence={self.licence!r} is no identifier: give one of {LICENCES}, or "other" '
                "with licence_name and licence_link"
            )
        named = bool(self.licence_name and self.licence_link)
        if named != (self.licence == "other") or bool(self.licence_name) != bool(self.licence_link):
            raise InputError(
                f"licence={self.licence!r}, licence_name={self.licence_name!r}, "
                f'licence_link={self.licence_link!r}: a licence named "other" needs a name and a '
                "link, and no other licence has them"
            )
        for key, names, form in (
            ("datasets", self.datasets, _DATA_ID),
            ("base_model", (self.base_model,), HUB_ID),
            ("repo_id", (self.repo_id,), HUB_ID),
        ):
            for name in names:
                if name is not None and not form.fullmatch(name):
                    raise InputError(f"{key}={name!r} is no id of the Hugging Face hub: owner/name")

    def require_complete(self) -> None:
        """Refuse to publish without a licence, or without a word about the data.

        Raises:
            InputError: either is missing.
        """
        if not self.licence:
            raise InputError(
                "licence is missing: nobody may use weights without one, and it is yours to choose "
                f"(the base model's may bind you); give an identifier of {LICENCES}"
            )
        if not (self.data or "").strip():
            raise InputError(
                "data is missing: say in a sentence what the weights were trained on, and whose "
                "pictures they are"
            )
