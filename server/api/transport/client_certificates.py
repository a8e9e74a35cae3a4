"""Client certificates: the CAs that they are from, and the callers that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from server.api.authentication import ClientCertificate
from server.domain.caller import AUTHENTICATED, RESERVED, Caller
from server.domain.errors import Unauthenticated
from server.followed_file import Events, FollowedFile

SETTING = "MODELSERVICE_CLIENT_CA"
MOST_BYTES = 64 * 2**10
MOST_CERTIFICATES = 1000
MOST_NAME_BYTES = 253
MOST_GROUPS = 100
_EVENTS = Events("client CA loaded", "client CA replaced", "client CA cannot be replaced")
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
)


def _now() -> datetime:
    return datetime.now(UTC)


class ClientCertificates:
    """The callers of client certificates. Load the `file` of the CAs, then follow it.

    A certificate of a CA that is no longer in the file is refused, over open connections too.
    """

    def __init__(self, path: Path) -> None:
        self.file = FollowedFile(SETTING, path, MOST_BYTES, _EVENTS, self._use)
        # The CAs in use, as PEM, for handshakes.
        self.authorities = b""

    async def caller_of(self, certificate: ClientCertificate, *, fresh: bool = False) -> Caller:
        """Return the caller whom a certificate names. Raises Unauthenticated.

        The user is its CN, the groups are its O. Neither may begin with `system:`.
        """
        caller = self._caller_of(certificate)
        if caller.expires and caller.expires <= _now():
            raise Unauthenticated("the client certificate has expired: call again with a new one")
        return caller

    def _use(self, content: bytes) -> Mapping[str, object]:
        roots = _parse_authorities(content, _now())
        self._caller_of = lru_cache(MOST_CERTIFICATES)(partial(_parse_caller, roots))
        # Encoded anew: gRPC's own parser stops at text that others pass over.
        self.authorities = b"".join(root.public_bytes(Encoding.PEM) for root in roots)
        return {"authorities": [root.subject.rfc4514_string()[:128] for root in roots[:10]]}


def _parse_authorities(pem: bytes, now: datetime) -> list[x509.Certificate]:
    """Raises ValueError, which says what must be there."""
    try:
        roots = x509.load_pem_x509_certificates(pem)
        unfit = [root for root in roots if not _is_authority(root)]
    except _UNREADABLE:
        raise ValueError("it must have certificates of CAs in PEM") from None
    if unfit:
        name = unfit[0].subject.rfc4514_string()
        raise ValueError(
            f"each certificate must be one of a CA (CA:TRUE), and {name!a:.128} is not"
        )
    if all(root.not_valid_after_utc < now for root in roots):
        raise ValueError("it must have a certificate that is valid, and all have expired")
    return roots


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _parse_caller(roots: Sequence[x509.Certificate], shown: ClientCertificate) -> Caller:
    """Return the caller of a certificate, also of one that has expired. Raises Unauthenticated."""
    try:
        leaf = x509.load_pem_x509_certificate(shown.leaf)
        between = (
            x509.load_pem_x509_certificates(shown.intermediates) if shown.intermediates else []
        )
        names = _names(leaf, NameOID.COMMON_NAME)
        groups = _names(leaf, NameOID.ORGANIZATION_NAME)
    except _UNREADABLE:
        raise Unauthenticated("the client certificate cannot be read") from None
    if not _leads_to(roots, leaf, between):
        raise Unauthenticated(
            "the client certificate must be from a CA that this server takes them from: call again"
            " with a new one"
        )
    if len(names) != 1:
        raise Unauthenticated(f"the client certificate must have one CN, and has {len(names)}")
    if len(groups) > MOST_GROUPS:
        raise Unauthenticated(
            f"the client certificate must have at most {MOST_GROUPS} O, and has {len(groups)}"
        )
    for name in (*names, *groups):
        _check_name(name)
    return Caller(
        names[0],
        groups=(*dict.fromkeys(groups), AUTHENTICATED),
        expires=min(each.not_valid_after_utc for each in (leaf, *between)),
    )


def _names(certificate: x509.Certificate, kind: x509.ObjectIdentifier) -> list[str]:
    values = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(kind)]
    if not all(isinstance(value, str) for value in values):
        raise ValueError("a name that is no text")
    return [str(value) for value in values]


def _check_name(name: str) -> None:
    if name.startswith(RESERVED):
        raise Unauthenticated(
            f"the client certificate has the name {name!a:.128}: users and groups must not begin"
            f" with {RESERVED}, which Kubernetes keeps for its own"
        )
    if not name or len(name.encode()) > MOST_NAME_BYTES or not name.isprintable():
        raise Unauthenticated(
            "each CN and O of the client certificate must have 1 to"
            f" {MOST_NAME_BYTES} bytes of printable characters"
        )


def _leads_to(
    roots: Sequence[x509.Certificate],
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
) -> bool:
    """Report whether a chain, which the handshake has verified, ends at one of these roots."""
    current: x509.Certificate | None = leaf
    for _ in range(len(between) + 1):
        if current is None:
            return False
        if any(_is_issued_by(current, root) for root in roots):
            return True
        subject = current
        current = next((each for each in between if _is_issued_by(subject, each)), None)
    return False


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
        return _is_authority(issuer)
    except (*_UNREADABLE, InvalidSignature):
        return False
