"""MoA weights are found wherever they are: here, on the hub, in a bucket."""

import sys
from io import BytesIO

import fsspec
import pytest
from etils.epath import backend

from moa_jax.errors import InputError
from moa_jax.method.source import find_moa
from tests.hub.stand_in import Repository

NAME, BUCKET = "me/moa-tiny", "gs://bucket/moa"
OLD = {"moa.json": b"the old card", "moa.safetensors": bytes(100_000)}
NEW = {"moa.json": b"the new card", "moa.safetensors": bytes(range(250)) * 400}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(*arguments, **options):
    with pytest.raises(InputError) as caught:
        find_moa(*arguments, **options)
    return str(caught.value)


@pytest.fixture
def pushed(hub):
    hub.repositories[NAME] = repository = Repository()
    repository.refs["v1"] = repository.commit("main", OLD)
    repository.commit("main", NEW | {"README.md": b"# MoA", "samples/a.png": b"a face"})
    return repository


def test_a_revision_is_named_behind_an_at_or_apart(pushed):
    assert content(find_moa(NAME)) == content(find_moa(f"{NAME}@main")) == NEW
    first = pushed.refs["v1"]
    for named in (
        find_moa(f"{NAME}@v1"),
        find_moa(NAME, revision="v1"),
        find_moa(f"{NAME}@{first}"),
    ):
        assert content(named) == OLD
    assert content(find_moa(f"{NAME}@v1", revision="v1")) == OLD
    assert "name two revisions" in refusal(f"{NAME}@v1", revision="main")
    pushed.refs["refs/pr/1"] = first
    assert content(find_moa(f"{NAME}@refs/pr/1")) == OLD


def test_a_folder_here_wins_over_a_repository_of_its_name(hub, pushed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (NAME, f"{NAME}@v1"):
        (tmp_path / name).mkdir(parents=True)
        assert str(find_moa(name)) == name
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_moa(f"~/{NAME}") == tmp_path / NAME
    assert find_moa(tmp_path / NAME) == tmp_path / NAME
    assert not hub.asked
    assert "revision='v1'" in refusal(NAME, revision="v1")


def test_the_card_alone_is_downloaded_where_no_weights_are_read(hub, pushed):
    assert content(find_moa(NAME, weights=False)) == {"moa.json": NEW["moa.json"]}
    assert not [asked for asked in hub.asked if asked.endswith("safetensors")]


def test_an_interrupted_download_ends_whole(hub, pushed):
    hub.cuts["moa.safetensors"] = 1
    assert content(find_moa(NAME)) == NEW
    assert "bytes=50000-" in hub.ranges


def test_what_names_nothing_is_refused_with_the_forms_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moa.safetensors").touch()
    assert "is a file: give the folder" in refusal("moa.safetensors")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/moa.safetensors").touch()
    assert "is a file: give the folder" in refusal("runs/moa.safetensors")
    assert "names no weights" in refusal("")
    for name in ("nowhere", "./no/where", "/no/where", "a/b/c", "me/moa-tiny@"):
        words = refusal(name, "--moa")
        assert words.startswith(f"--moa={name!r}: there is no such folder")
        assert "owner/name@revision" in words and "gs://bucket/folder" in words
    assert "model.moa='me/none@v1' is not a folder here" in refusal("me/none@v1", "model.moa")


class Bucket(fsspec.get_filesystem_class("memory")):
    """Objects in memory under gs:// names: gcsfs and a real bucket are not here."""

    store, pseudo_dirs, cachable = {}, [""], False
    protocol = "memory"
    times, opened, short = {}, [], 0

    def info(self, path, **options):
        found = super().info(path, **options)
        return found | ({"mtime": self.times[path]} if path in self.times else {})

    def open(self, path, mode="rb", **options):
        self.opened.append(path.rpartition("/")[2])
        file = super().open(path, mode, **options)
        return BytesIO(file.read()[: -self.short]) if self.short else file


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in {"store": {}, "times": {}, "opened": [], "short": 0}.items():
        monkeypatch.setattr(Bucket, name, value)
    files = Bucket()
    monkeypatch.setattr(type(backend.fsspec_backend), "_get_filesystem", lambda *_: files)
    fill(files, OLD, 1_000)
    return files


def fill(bucket, content, time):
    for name, data in content.items():
        bucket.pipe_file(f"{BUCKET}/{name}", data)
        if time:
            bucket.times[f"{BUCKET}/{name}"] = time
    bucket.opened.clear()


def test_a_bucket_is_copied_once_for_each_state_of_its_files(bucket, tmp_path):
    folder = find_moa(BUCKET)
    assert tmp_path in folder.parents and content(folder) == OLD
    assert find_moa(BUCKET) == folder and sorted(bucket.opened) == sorted(OLD)
    fill(bucket, NEW, 2_000)  # as large as before
    assert content(find_moa(BUCKET)) == NEW
    bucket.times.clear()  # as s3:// has none in etils
    fill(bucket, OLD, None)
    assert content(find_moa(BUCKET)) == OLD


def test_of_a_bucket_the_card_alone_may_be_copied(bucket):
    assert content(find_moa(BUCKET, weights=False)) == {"moa.json": OLD["moa.json"]}


def test_a_copy_that_ends_early_is_no_copy(bucket, tmp_path):
    bucket.short = 5
    words = refusal(BUCKET, "--moa")
    assert "interrupted (EOFError: 7 of 12 bytes came)" in words and "starts it again" in words
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    bucket.short = 0
    assert content(find_moa(BUCKET)) == OLD


def test_what_a_bucket_lacks_is_named(bucket):
    bucket.rm_file(f"{BUCKET}/moa.safetensors")
    assert f"model.moa='{BUCKET}' has no moa.safetensors" in refusal(BUCKET, "model.moa")


def test_a_bucket_that_cannot_be_read_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    backend.fsspec_backend._get_filesystem.cache_clear()
    assert "pip install gcsfs" in refusal("gs://bucket/moa")
    assert "of buckets, gs:// and s3:// are read" in refusal("ftp://bucket/moa")
