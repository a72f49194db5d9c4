"""Downloads go on where they broke off, and what the hub refuses is said in words."""

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from moa_jax.backbone import hub as client
from moa_jax.backbone.hub import download
from moa_jax.errors import InputError
from tests.hub.stand_in import TOKEN, Repository

NAME = "me/thing"
BYTES = bytes(range(250)) * 4_000


@pytest.fixture
def thing(hub):
    hub.repositories[NAME] = repository = Repository()
    repository.commit("main", {"a.json": b"{}", "b.safetensors": BYTES, "c.bin": b"pickle"})
    return repository


def refusal(*arguments, **options):
    with pytest.raises(InputError) as caught:
        download(*arguments, **options)
    return str(caught.value)


def test_only_what_matches_is_downloaded_and_only_once(hub, thing):
    folder = download(NAME, ["*.json", "*.safetensors"])
    assert {path.name for path in folder.iterdir()} == {"a.json", "b.safetensors"}
    assert (folder / "b.safetensors").read_bytes() == BYTES
    assert download(NAME, ["*.json", "*.safetensors"]) == folder
    assert len(hub.ranges) == 2


def test_a_download_that_breaks_off_goes_on_and_ends_whole(hub, thing):
    hub.cuts["b.safetensors"] = 2
    folder = download(NAME, ["*.safetensors"])
    assert (folder / "b.safetensors").read_bytes() == BYTES
    half, rest = len(BYTES) // 2, len(BYTES) // 4
    assert hub.ranges == [None, f"bytes={half}-", f"bytes={half + rest}-"]


def breaking_off(monkeypatch, times):
    """The client gives up, as older ones do when an answer breaks off; gives its calls."""
    calls = []
    # Of the HTTP library that the client uses, whichever that is.
    broken = next(e for e in errors.HfHubHTTPError.__bases__ if e is not OSError)

    def snapshot_download(name, allow_patterns):
        calls.append(name)
        if len(calls) <= times:
            raise broken("peer closed connection without sending complete message body")
        return "/folder"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(client, "PAUSE", 0)
    return calls


def test_a_client_that_gives_up_is_asked_again_and_not_forever(monkeypatch):
    calls = breaking_off(monkeypatch, 2)
    assert str(download(NAME, ["*"])) == "/folder" and len(calls) == 3
    calls = breaking_off(monkeypatch, 99)
    words = refusal(NAME, ["*"])
    assert len(calls) == 3
    assert "interrupted (peer closed connection" in words and "goes on from where" in words


@pytest.mark.parametrize(
    ("token", "state", "words"),
    [
        (None, {"private": True}, "no such repository, or it is private.*hf auth login"),
        ("hf_wrong", {}, "does not know you .HTTP 401.*HF_TOKEN"),
        (TOKEN, {"gated": True}, r"asks for an agreement first: open .*/me/thing, agree, and log"),
    ],
)
def test_a_closed_door_is_explained(hub, thing, monkeypatch, token, state, words):
    vars(thing).update(state)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=f"'{NAME}' is not a folder here, and .*: .*{words}"):
        download(NAME, ["*"])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "may not do this with 'me/thing' .HTTP 403"),
        (429, "asked too often .HTTP 429"),
        (502, "a fault of its own .HTTP 502.*later"),
    ],
)
def test_a_status_is_explained(hub, thing, status, words):
    hub.fails = {"/api/models/": status}
    with pytest.raises(InputError, match=words):
        download(NAME, ["*"])


def test_what_is_not_there_is_named(hub, thing):
    assert "there is no such repository" in refusal("me/none", ["*"])
    words = refusal(NAME, ["*"], "v9", "model.moa='me/thing@v9'")
    assert words.startswith("model.moa='me/thing@v9' is not a folder here")
    assert "it has no revision 'v9'" in words and f"{hub.url}/me/thing/commits" in words


def test_without_a_network_the_cache_serves_or_the_remedy_is_named(hub, thing, monkeypatch):
    folder = download(NAME, ["*.json"])
    for change in ({"HF_HUB_OFFLINE": True}, {"ENDPOINT": "http://127.0.0.1:9"}):
        with monkeypatch.context() as patch:
            for key, value in change.items():
                patch.setattr(constants, key, value)
            assert download(NAME, ["*.json"]) == folder
            words = refusal("me/other", ["*"])
            assert "cannot be reached, and the cache does not have all of it" in words
            assert "hf download me/other --local-dir FOLDER" in words
            assert ("HF_HUB_OFFLINE is set" in words) == ("HF_HUB_OFFLINE" in change)
