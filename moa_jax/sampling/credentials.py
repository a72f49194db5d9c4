"""Content credentials: a signed statement in a picture's file that a model drew it.

The statement is a C2PA manifest (https://c2pa.org). It says that this version of moa_jax created
the file, by a trained model alone or by one and a photo, and names the weights. It holds neither
the photo nor its name or hash.

What it proves depends on the certificate. By default a key is made for each run and thrown away
after it. Its certificate says nothing about who drew the picture, and validators call it untrusted:
the signature then proves only that the file has not changed since it was signed. With your own key
and certificate it also names you, to those who trust whoever issued the certificate. No time is
proven, as no timestamp authority is asked; signing never uses the network. Anybody can remove the
statement from a file, and a picture without one may still have been drawn by a model.
"""

import datetime
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from moa_jax import __version__
from moa_jax.errors import InputError
from moa_jax.extension import import_extra

# Set both to sign with a key and a certificate of your own: PEM files.
KEY, CERTIFICATE = "MOA_JAX_CREDENTIALS_KEY", "MOA_JAX_CREDENTIALS_CERT"

FORMATS = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".mp4": "video/mp4"}
# The IPTC's words for "by a model alone" and "of other things and of what a model made".
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MODEL, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
WEIGHTS = "moa_jax.weights"  # label of the assertion that names the networks
YEARS = 30  # without a timestamp, a signature is valid for as long as its certificate

SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},  # 280 KB a file
    "verify": {"verify_after_sign": True, "ocsp_fetch": False, "remote_manifest_fetch": False},
}


class Credentials:
    """What signs the files of a run."""

    def __init__(self, key: str | Path | None = None, certificate: str | Path | None = None):
        """Read a key and a certificate, or make them for this run alone.

        Args:
            key: PEM file of the private key, without a password: of an elliptic curve (P-256, P-384
                or P-521), Ed25519 or RSA. None for both makes new ones.
            certificate: PEM file of its certificate, followed by those of its issuers.

        Raises:
            InputError: c2pa-python is not installed, only one of both is given, a file cannot be
                read, or the two cannot sign a picture as C2PA asks.
        """
        wanted = "a content credential (--credentials-key, --credentials-cert)"
        self._c2pa = import_extra("c2pa", wanted, "pip install 'moa_jax[credentials]'")
        if (key is None) != (certificate is None):
            raise InputError(
                f"key {key} and certificate {certificate}: content credentials need both, or none"
            )
        algorithm, chain, private = _own() if key is None else _given(key, certificate)
        info = self._c2pa.C2paSignerInfo(algorithm, chain, private, None)  # no timestamp authority
        self._context = self._c2pa.Context.from_dict(SETTINGS)
        try:
            self._signer = self._c2pa.Signer.from_info(info)
            self._signed(_manifest("a test", photo=False, record={}), "image/png", _tiny())
        except self._c2pa.C2paError as error:
            raise InputError(
                f"key {key} and certificate {certificate} cannot sign a picture: {error}"
            ) from error

    def sign(
        self, file: str | Path, *, photo: bool = False, record: Mapping[str, Any] | None = None
    ) -> None:
        """Put a statement into a file that a model drew; its pixels and other data stay the same.

        Args:
            file: a PNG, GIF, WebP or MP4, which is replaced.
            photo: whether the picture comes from a photo.
            record: its `base`, `moa` and `fingerprints` are told; of paths only the last part.

        Raises:
            InputError: the file is of another kind, or cannot be read, signed or written.
        """
        file = Path(file)
        kind = FORMATS.get(file.suffix.lower())
        if kind is None:
            raise InputError(f"{file}: of files, {', '.join(FORMATS)} can be signed")
        unfinished = file.with_name(f"{file.name}.unfinished")
        try:
            manifest = _manifest(file.name, photo=photo, record=record or {})
            unfinished.write_bytes(self._signed(manifest, kind, file.read_bytes()))
            unfinished.replace(file)  # in one step: no crash leaves half a picture
        except (OSError, self._c2pa.C2paError) as error:
            raise InputError(f"{file} cannot be signed: {error}") from error

    def _signed(self, manifest: dict[str, Any], kind: str, data: bytes) -> bytes:
        signed = BytesIO()
        with self._c2pa.Builder(manifest, self._context) as builder:
            builder.sign(self._signer, kind, BytesIO(data), signed)
        return signed.getvalue()


def open_credentials(
    on: bool = True, key: str | Path | None = None, certificate: str | Path | None = None
) -> Credentials | None:
    """Give what signs the files of a run; None if they are not to be signed.

    Files are signed unless `on` is false, or the extra `credentials` is not installed and no key is
    given.

    Args:
        key: see `Credentials`; None takes the file that the variable MOA_JAX_CREDENTIALS_KEY names.
        certificate: likewise; MOA_JAX_CREDENTIALS_CERT.

    Raises:
        InputError: as `Credentials`.
    """
    if not on:
        return None
    key = key or os.environ.get(KEY) or None
    certificate = certificate or os.environ.get(CERTIFICATE) or None
    if key is None and certificate is None:
        try:
            import c2pa  # noqa: F401
        except ImportError:
            return None
    return Credentials(key, certificate)


def _manifest(title: str, *, photo: bool, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the statement, in the words of C2PA."""
    program = {"name": "moa_jax", "version": __version__}
    source = SOURCES + (COMPOSITE if photo else MODEL)
    created = {"action": "c2pa.created", "digitalSourceType": source, "softwareAgent": program}
    actions: list[dict[str, Any]] = [created]
    manifest: dict[str, Any] = {"claim_generator_info": [program], "title": title}
    if photo:
        # Of the photo nothing is told but that there is one: its own manifest may hold where and
        # by whom it was taken, and a picture of it.
        manifest["ingredients"] = [
            {"title": "a photo", "relationship": "componentOf", "label": "photo"}
        ]
        actions.append({"action": "c2pa.placed", "parameters": {"ingredientIds": ["photo"]}})
    networks = (("base", record.get("base") or record.get("model")), ("moa", record.get("moa")))
    told: dict[str, Any] = {name: Path(path).name for name, path in networks if path}
    if prints := record.get("fingerprints"):
        told["fingerprints"] = dict(prints)
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    return manifest | {
        "assertions": assertions + ([{"label": WEIGHTS, "data": told}] if told else [])
    }


def _given(key: Any, certificate: Any) -> tuple[bytes, bytes, bytes]:
    """Read a user's own: the algorithm's name, the certificates and the key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        chain = Path(certificate).read_bytes()
        private = serialization.load_pem_private_key(Path(key).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: there is a password
        raise InputError(
            f"key {key}, certificate {certificate}: cannot be read: {error}"
        ) from error
    algorithm = None
    if isinstance(private, ec.EllipticCurvePrivateKey):
        curves = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}
        algorithm = curves.get(private.curve.name)
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        algorithm = b"ed25519"
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm = b"ps256"
    if algorithm is None:
        raise InputError(f"key {key}: C2PA signs by P-256, P-384, P-521, Ed25519 or RSA alone")
    return algorithm, chain, _pem(private)


def _own() -> tuple[bytes, bytes, bytes]:
    """Make a key and its certificate, by an issuer that is forgotten; C2PA wants one by another."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    issuer, private = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    certificate = _certificate(private, issuer, "made for one run", final=True)
    root = _certificate(issuer, issuer, "nobody in particular", final=False)
    chain = certificate.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)
    return b"es256", chain, _pem(private)


def _pem(private: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certificate(key: Any, issuer: Any, name: str, *, final: bool) -> Any:
    """Certify a key as C2PA asks: what it may be used for, and by whom it was issued.

    Args:
        final: whether it signs files, and no certificates.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    uses = dict.fromkeys(
        "content_commitment key_encipherment data_encipherment key_agreement crl_sign "
        "encipher_only decipher_only".split(),
        False,
    )
    now = datetime.datetime.now(datetime.UTC)
    issued_by = name if key is issuer else "nobody in particular"
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issued_by))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # for clocks that are behind
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=not final, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=final, key_cert_sign=not final, **uses), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
    )
    if final:
        purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer, hashes.SHA256())


def _name(common: str) -> Any:
    from cryptography import x509

    parts = ((x509.NameOID.ORGANIZATION_NAME, "moa_jax"), (x509.NameOID.COMMON_NAME, common))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _tiny() -> bytes:
    """Write a picture of one pixel, to try a key on."""
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()
