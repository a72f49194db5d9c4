"""Content credentials, read back by C2PA's own reader; and the pictures that carry them."""

import json
import sys
from io import BytesIO
from pathlib import Path

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from moa_jax import Result, __version__, save_result
from moa_jax.errors import InputError
from moa_jax.sampling.credentials import _certificate, _own, _pem, open_credentials
from moa_jax.sampling.from_options import read_credentials
from moa_jax.sampling.options import parse_arguments
from moa_jax.sampling.record import CHUNK, read_record

PIXELS = np.random.default_rng(0).integers(0, 255, (2, 24, 32, 3), dtype=np.uint8)
BLOCK = "mid_block.attentions.0.transformer_blocks.0"
ROUTING = {f"{BLOCK}.attn1": np.full((3, 2, 4, 4), 0.25, np.float16)}
WATCHED = {f"{BLOCK}.attn2": np.full((3, 2, 4, 4, 1), 0.5, np.float16)}
RECORD = {
    "prompt": "a man <|image|> in the snow",
    "seed": 4,
    "base": "/home/someone/models/sd15",
    "moa": "runs/mine",
    "fingerprints": {"unet": "0123456789abcdef"},
    "credentials_key": "theirs.pem",
}
UNTRUSTED = "signingCredential.untrusted"  # nobody vouches for a key that was made for a run
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
KINDS = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".mp4": "video/mp4"}


def result(routing=None, attention=None):
    return Result([*map(Image.fromarray, PIXELS)], routing or {}, np.arange(3), attention or {})


def read(data, kind="image/png"):
    """The validation state, the codes of what failed, and the manifest."""
    reader = c2pa.Reader(kind, BytesIO(data))
    found = json.loads(reader.json())
    failed = found["validation_results"]["activeManifest"]["failure"]
    codes = [failure["code"] for failure in failed]
    return reader.get_validation_state(), codes, found["manifests"][found["active_manifest"]]


def assertion(manifest, label):
    found = [each["data"] for each in manifest["assertions"] if each["label"] == label]
    assert len(found) == 1
    return found[0]


def signed(folder, **options):
    save_result(result(), folder, "x", **options)
    return (folder / "x-01.png").read_bytes()


def message(function, *args, **options):
    with pytest.raises(InputError) as error:
        function(*args, **options)
    return str(error.value)


def write_own(folder, key, certificate):
    """A key and a certificate in files, as a user has them."""
    (folder / "key.pem").write_bytes(key)
    (folder / "cert.pem").write_bytes(certificate)
    return folder / "key.pem", folder / "cert.pem"


def test_a_picture_says_by_what_it_was_made_and_stays_the_same(tmp_path):
    data = signed(tmp_path, record=RECORD)
    state, failed, manifest = read(data)
    assert (state, failed) == ("Valid", [UNTRUSTED])
    program = {"name": "moa_jax", "version": __version__}
    assert program.items() <= manifest["claim_generator_info"][0].items()
    assert assertion(manifest, "c2pa.actions.v2")["actions"] == [
        {
            "action": "c2pa.created",
            "softwareAgent": program,
            "digitalSourceType": SOURCES + "trainedAlgorithmicMedia",
        }
    ]
    weights = {"base": "sd15", "moa": "mine", "fingerprints": {"unet": "0123456789abcdef"}}
    assert assertion(manifest, "moa_jax.weights") == weights
    assert "ingredients" not in manifest and manifest["title"] == "x-01.png"
    # The picture, its record, and what other programs read of it are as without a signature.
    save_result(result(), tmp_path, "plain", RECORD, credentials=False)
    plain = (tmp_path / "plain-01.png").read_bytes()
    with pytest.raises(c2pa.C2paError, match="ManifestNotFound"):
        read(plain)
    with Image.open(BytesIO(data)) as one, Image.open(BytesIO(plain)) as two:
        assert one.text == two.text and {CHUNK, "parameters"} <= one.text.keys()
        np.testing.assert_array_equal(np.asarray(one), PIXELS[1])
    assert read_record(tmp_path / "x-01.png")["image_index"] == 1
    again = parse_arguments(["--from-json", str(tmp_path / "x-01.png")])
    assert (again.prompt, again.seed) == (RECORD["prompt"], 4)
    assert again.credentials_key is None  # a picture of others must not choose the key
    assert len(data) - len(plain) < 6_000  # no picture in the statement


@pytest.mark.parametrize("what", ["pixels", "record", "statement"])
def test_a_changed_byte_is_found(tmp_path, what):
    data = bytearray(signed(tmp_path, record=RECORD))
    mark, fault = {
        "pixels": (b"IDAT", "assertion.dataHash.mismatch"),
        "record": (b"in the snow", "assertion.dataHash.mismatch"),
        "statement": (b"trainedAlgorithmicMedia", "assertion.hashedURI.mismatch"),
    }[what]
    data[data.index(mark) + 10] ^= 1
    state, failed, _ = read(bytes(data))
    assert state == "Invalid" and {UNTRUSTED, fault} <= set(failed)


def test_a_drawing_from_a_photo_says_so_and_nothing_of_the_photo(tmp_path):
    photo = tmp_path / "her_at_home.jpg"
    Image.fromarray(PIXELS[0]).save(photo)
    record = {**RECORD, "image": str(photo)}
    others = {"photo": Image.open(photo), "reconstruction": Image.fromarray(PIXELS[1])}
    data = signed(tmp_path, record=record, others=others)
    state, failed, manifest = read(data)
    assert (state, failed) == ("Valid", [UNTRUSTED])
    created, placed = assertion(manifest, "c2pa.actions.v2")["actions"]
    assert created["digitalSourceType"] == SOURCES + "compositeWithTrainedAlgorithmicMedia"
    assert placed["action"] == "c2pa.placed" and len(placed["parameters"]["ingredients"]) == 1
    (ingredient,) = manifest["ingredients"]
    assert (ingredient["title"], ingredient["relationship"]) == ("a photo", "componentOf")
    assert "her_at_home" not in json.dumps(manifest)
    assert read((tmp_path / "x-reconstruction.png").read_bytes())[0] == "Valid"
    with pytest.raises(c2pa.C2paError, match="ManifestNotFound"):
        read((tmp_path / "x-photo.png").read_bytes())  # which no model drew
    told = signed(tmp_path, from_photo=True)  # and without a record
    assert "compositeWith" in json.dumps(read(told)[2])


@pytest.mark.parametrize("animation", [None, "gif", "webp", "mp4"])
def test_every_file_that_shows_what_was_drawn_is_signed(tmp_path, animation):
    if animation == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    shown = result(ROUTING, WATCHED)
    save_result(shown, tmp_path, "x", subjects=["him"], look=True, animation=animation)
    files = {file.name: file for file in tmp_path.iterdir() if file.suffix in KINDS}
    assert not {file.name for file in tmp_path.iterdir() if file.suffix == ".unfinished"}
    for name in ("x-00-share.png", "x-01-share.png"):  # a plot
        files.pop(name)
    assert len(files) == (9 if animation is None else 10)  # two pictures, each with three figures
    for file in files.values():
        assert read(file.read_bytes(), KINDS[file.suffix])[:2] == ("Valid", [UNTRUSTED])
    if animation in ("gif", "webp"):
        with Image.open(files[f"x.{animation}"]) as moving:
            assert moving.n_frames == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ed25519.Ed25519PrivateKey.generate(),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_a_key_of_ones_own_names_its_owner(tmp_path, monkeypatch, make):
    private, issuer = make(), ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(private, issuer, "someone", final=True)
    root = _certificate(issuer, issuer, "nobody in particular", final=False)
    chain = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (certificate, root))
    key, cert = write_own(tmp_path, _pem(private), chain)
    monkeypatch.setenv("MOA_JAX_CREDENTIALS_KEY", str(key))
    monkeypatch.setenv("MOA_JAX_CREDENTIALS_CERT", str(cert))
    state, failed, manifest = read(signed(tmp_path))
    assert (state, failed) == ("Valid", [UNTRUSTED])
    assert manifest["signature_info"]["common_name"] == "someone"
    # Whoever trusts its issuer trusts it.
    anchors = root.public_bytes(serialization.Encoding.PEM).decode()
    trust = {"trust": {"trust_anchors": anchors}, "verify": {"verify_trust": True}}
    data = BytesIO((tmp_path / "x-01.png").read_bytes())
    with c2pa.Reader("image/png", data, context=c2pa.Context.from_dict(trust)) as reader:
        assert reader.get_validation_state() == "Trusted"


def test_a_key_is_made_for_each_run_and_its_issuer_signs_no_pictures():
    one, two = (x509.load_pem_x509_certificates(_own()[1]) for _ in range(2))
    leaf, root = one
    leaf.verify_directly_issued_by(root)
    assert leaf.public_key() != two[0].public_key()
    assert leaf.not_valid_after_utc.year - leaf.not_valid_before_utc.year >= 29
    for certificate, ca in ((leaf, False), (root, True)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.value.ca == ca


def test_a_key_that_cannot_sign_is_refused_before_anything_is_drawn(tmp_path):
    _, chain, private = _own()
    key, cert = write_own(tmp_path, _own()[2], chain)
    assert "cannot sign a picture: Signature: the sig" in message(open_credentials, True, key, cert)
    key, cert = write_own(tmp_path, private, chain[chain.index(b"-----BEGIN", 5) :])
    assert "cannot sign a picture" in message(open_credentials, True, key, cert)
    key.write_text("no key")
    assert "cert.pem: cannot be read" in message(open_credentials, True, key, cert)
    assert "need both, or none" in message(open_credentials, True, key)
    other = _pem(ec.generate_private_key(ec.SECP256K1()))
    assert "P-384, P-521, Ed25519 or RSA" in message(
        open_credentials, True, *write_own(tmp_path, other, chain)
    )
    with pytest.raises(InputError, match="can be signed"):
        open_credentials().sign(Path("a.jpg"))
    with pytest.raises(InputError, match="missing.png cannot be signed"):
        open_credentials().sign(tmp_path / "missing.png")


def test_without_the_extra_nothing_is_signed_unless_a_key_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)  # importing it raises ImportError
    assert open_credentials() is None
    save_result(result(), tmp_path, "x", RECORD)
    assert read_record(tmp_path / "x-00.png")["seed"] == 4
    asked = ["--base", "b", "--prompt", "p", "--credentials-key", "a", "--credentials-cert", "b"]
    found = message(read_credentials, parse_arguments(asked))
    assert "pip install 'moa_jax[credentials]'" in found
    assert read_credentials(parse_arguments([*asked, "--no-credentials"])) is None
