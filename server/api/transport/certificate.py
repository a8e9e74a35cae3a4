"""A certificate and its private key: reading the files, and what can be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import PublicKeyAlgorithmOID

from server.bounded_file import FileUnusable, read_file

CERT = "MODELSERVICE_TLS_CERT"
KEY = "MODELSERVICE_TLS_KEY"
# Of each file. A chain of ten certificates has 20 KiB.
MOST_BYTES = 64 * 2**10
_RSA_BITS = range(2048, 8192 + 1)
# RSA-PSS has another, and gRPC cannot serve it.
_ALGORITHMS = (PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5, PublicKeyAlgorithmOID.EC_PUBLIC_KEY)
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class CertificateUnusable(FileUnusable):
    """The certificate or its key cannot be used; the message names the setting, for operators."""


class Paths(NamedTuple):
    """Where the certificate and its key are."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Files:
    """What is in the two files."""

    cert: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that fits its key, with its intermediates. Both are PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    sha256: str
    expires: datetime


def read_files(paths: Paths) -> Files:
    """Read both files. Raises CertificateUnusable."""
    return Files(_read(CERT, paths.cert), _read(KEY, paths.key))


def _read(setting: str, path: Path) -> bytes:
    try:
        return read_file(path, MOST_BYTES)
    except FileUnusable as e:
        raise CertificateUnusable(f"{setting}: {e}") from None


def parse(files: Files, paths: Paths, now: datetime) -> Certificate:
    """Check that the certificate is valid now and fits the key. Raises CertificateUnusable."""
    chain = _parse_chain(files.cert, paths.cert)
    key = _parse_key(files.key, paths.key)
    _check_pair(chain, key, paths)
    leaf = chain[0]
    if leaf.public_key_algorithm_oid not in _ALGORITHMS:
        raise _unfit_key(paths.key)
    if now < leaf.not_valid_before_utc:
        raise CertificateUnusable(
            f"{CERT}: {paths.cert} is not valid before {_shown(leaf.not_valid_before_utc)}: check"
            " the clock of this machine, or replace the certificate"
        )
    if now > leaf.not_valid_after_utc:
        raise CertificateUnusable(
            f"{CERT}: {paths.cert} expired at {_shown(leaf.not_valid_after_utc)}: replace it by a"
            " new certificate"
        )
    return Certificate(
        # Encoded anew: gRPC's own parser stops at text that others pass over.
        chain=b"".join(each.public_bytes(Encoding.PEM) for each in chain),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        sha256=leaf.fingerprint(hashes.SHA256()).hex(),
        expires=leaf.not_valid_after_utc,
    )


def _parse_chain(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(pem)
        for each in chain:
            _public_key(each)
    except _UNREADABLE:
        raise CertificateUnusable(
            f"{CERT}: {path} must have the server's certificate in PEM, and its intermediates after"
            " it"
        ) from None
    return chain


def _parse_key(pem: bytes, path: Path) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise CertificateUnusable(
            f"{KEY}: {path} is encrypted: it must have a private key without a passphrase"
        ) from None
    except _UNREADABLE:
        raise CertificateUnusable(f"{KEY}: {path} must have a private key in PEM") from None
    if (isinstance(key, rsa.RSAPrivateKey) and key.key_size in _RSA_BITS) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES)
    ):
        return key
    raise _unfit_key(path)


def _unfit_key(path: Path) -> CertificateUnusable:
    # gRPC cannot serve others, or its clients in C++ and Python refuse them.
    return CertificateUnusable(
        f"{KEY}: {path} must have a key for RSA of 2048 to 8192 bits, without PSS, or for ECDSA on"
        " P-256 or P-384"
    )


def _check_pair(
    chain: list[x509.Certificate],
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    paths: Paths,
) -> None:
    ours = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if _public_key(chain[0]) == ours:
        return
    if any(_public_key(each) == ours for each in chain[1:]):
        raise CertificateUnusable(
            f"{CERT}: {paths.cert} must begin with the certificate of the key {paths.key}; it has"
            " another one before it"
        )
    raise CertificateUnusable(
        f"{KEY}: {paths.key} does not fit the certificate {paths.cert}: both must be of one pair"
    )


def _public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
