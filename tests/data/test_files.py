"""Buckets without a network: fsspec reads a local folder, array_record a server on this machine."""

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import fsspec
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem

from moa_jax.config import DataConfig
from moa_jax.data.files import Blob, find_folder
from moa_jax.data.pack import pack
from moa_jax.data.packed import Shards
from moa_jax.data.records import open_records
from moa_jax.errors import InputError
from tests.data.test_loader import assert_same, open_loader, take


@pytest.fixture
def store():
    """Let a class of fsspec stand for Google's storage."""
    clear = backend.fsspec_backend._get_filesystem.cache_clear  # epath keeps what it opened

    def register(kind):
        clear()
        fsspec.register_implementation("gcs", kind, clobber=True)

    yield register
    clear()
    fsspec.register_implementation("gcs", "gcsfs.GCSFileSystem", clobber=True)


def stand_in(root):
    """Give a file system that shows a folder as gs://bucket."""

    class Bucket(LocalFileSystem):
        protocol = ("gs", "gcs")
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(re.sub("^gs://bucket", str(root), str(path)))

    return Bucket


@pytest.fixture
def bucket(request, tmp_path_factory, store, monkeypatch):
    """A folder that is gs://bucket for epath and for array_record."""
    root = tmp_path_factory.mktemp("bucket")
    store(stand_in(root))
    asked = []

    class Storage(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        log_message = lambda self, *_: None  # noqa: E731

        def do_GET(self):
            asked.append(self.path)
            file = root / unquote(urlsplit(self.path).path).split("/bucket/")[1].removeprefix("o/")
            data = file.read_bytes() if file.is_file() else None
            first, last = 0, len(data or b"")
            if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or ""):
                start, end = wanted.groups()
                first = int(start) if start else last - int(end)
                last = min(last, int(end) + 1) if start and end else last
            body = b"" if data is None else data[first:last]
            self.send_response(404 if data is None else 206 if wanted else 200)
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(data or b'')}")
            self.send_header("x-goog-generation", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    server.handle_error = lambda *_: None  # the client hangs up on what it need not read
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield root, asked
    server.shutdown()
    server.server_close()


def test_a_packed_folder_in_a_bucket(imagefolder, bucket, tokenizer):
    root, asked = bucket
    pack(DataConfig(path=str(imagefolder)), root / "data" / "packed", shard_size=3)
    loader = open_loader("gs://bucket/data/packed", tokenizer)
    assert_same(take(loader, 4), take(open_loader(imagefolder, tokenizer), 4))
    loader.close()
    assert any("00001-of-00002.array_record" in path for path in asked)


def test_a_shard_that_is_not_in_the_bucket(imagefolder, bucket):
    root, _ = bucket
    pack(DataConfig(path=str(imagefolder)), root / "packed")
    records = open_records("gs://bucket/packed")
    (root / "packed" / "00000-of-00001.array_record").unlink()
    with pytest.raises(InputError) as error:
        records._sources[0]
    assert "gcloud storage rsync -r gs://bucket/packed packed" in str(error.value)


@pytest.mark.parametrize("layout", ["imagefolder", "ffhq"])
def test_the_other_layouts_are_read_from_a_bucket_too(request, layout, store, tokenizer, tmp_path):
    source = request.getfixturevalue(layout)
    store(stand_in(source.parent))
    remote = f"gs://bucket/{source.name}"
    expected = take(open_loader(source, tokenizer), 3)
    assert_same(take(open_loader(remote, tokenizer), 3), expected)
    pack(DataConfig(path=remote), tmp_path / "packed")
    assert_same(take(open_loader(tmp_path / "packed", tokenizer), 3), expected)
    with pytest.raises(InputError, match="'gs://bucket/nothing' is not a folder"):
        open_records("gs://bucket/nothing")


def refuse(error):
    class Refused(LocalFileSystem):
        cachable = False

        def __init__(self, **options):
            raise error

    return Refused


@pytest.mark.parametrize(
    "error", [ImportError("Please install gcsfs"), PermissionError("Anonymous caller")]
)
def test_a_bucket_that_cannot_be_read_comes_with_remedies(store, error):
    store(refuse(error))
    with pytest.raises(InputError) as found:
        open_records("gs://mine/faces/packed")
    message = str(found.value)
    assert str(error) in message and "pip install gcsfs" in message
    assert "gcloud auth application-default login" in message and "gcsfuse" in message
    assert "gcloud storage rsync -r gs://mine/faces/packed packed" in message


def test_shards_are_not_read_from_other_buckets():
    with pytest.raises(InputError) as found:
        Shards(epath.Path("s3://mine/packed"))
    assert "array_record reads shards from gs://" in str(found.value)
    assert "aws s3 sync s3://mine/packed packed" in str(found.value)


def test_a_scheme_that_nobody_reads():
    with pytest.raises(InputError, match="memory://folder cannot be read .* gs:// and s3:// are"):
        find_folder("memory://folder")


def test_a_blob_may_be_opened_many_times():
    blob = Blob("picture", b"abc")
    with blob.open("rb") as first, blob.open("rb") as second:
        assert first.read() == second.read() == b"abc"
    assert str(blob) == "picture" and "abc" not in repr(blob)
