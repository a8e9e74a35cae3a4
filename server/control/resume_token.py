"""Resume tokens of watches, and how a stream continues from one.

The token of a watch of many continues in the process that made it, from versions of its watch
cache. The token of a watch of one service continues on any replica, and after a restart: it has the
state that was sent last, as the digest that every replica derives alike, and how far the cluster
was then. An exact token of a watch of many would need this of each service: some 25 bytes for a uid
and a digest, so that 1 KiB would hold 30 services. Elsewhere such a watch begins anew, by RESET.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, TypeGuard

from server.domain.errors import ResumeTokenInvalid
from server.domain.opaque_tokens import LONGEST_TOKEN, decode_token, encode_token
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.state_digest import remembered_digest, state_digest
from server.ports import Cluster

# Tokens of another format are from another release.
FORMAT = 2
OLD_SECONDS = 600
# With more, a token would be too long: it would take as many cuts within what is sent after a cut.
MOST_SPANS = 16


class LastSent(NamedTuple):
    """The last message about a service.

    `remembered`: a digest of the rest of the state, which only the process that sent it can
    compare. An empty `digest`: it was DELETED. All empty: there was none, or it LEFT.
    """

    uid: str = ""
    generation: int = 0
    digest: str = ""
    remembered: str = ""

    @property
    def is_held(self) -> bool:
        """Report whether the reader has the service since then."""
        return bool(self.digest)

    def is_state(self, service: InferenceService, *, same_process: bool) -> bool:
        """Report whether the service is in the state that was sent."""
        return self.digest == state_digest(service) and (
            not same_process or self.remembered == remembered_digest(service)
        )

    def is_contradicted(self, current: InferenceService | None) -> bool:
        """Report whether a state is older than the message: it has a service that was deleted."""
        return current is not None and not self.is_held and current.uid == self.uid


NOTHING_SENT = LastSent()


def sent_state(service: InferenceService) -> LastSent:
    """Return the last message for a state that was sent."""
    digests = state_digest(service), remembered_digest(service)
    return LastSent(service.uid, service.generation, *digests)


def sent_deletion(uid: str, generation: int) -> LastSent:
    """Return the last message for a deletion that was sent."""
    return LastSent(uid, generation)


class Seen(NamedTuple):
    """The position of a reader of many services in the watch cache.

    The reader has every service as it was at a `version` of the cache. Events are sent in the order
    of the services' births: after a cut between two events, the services that were born until then
    are at a later version. `spans` has such births with their versions, the oldest birth first.
    """

    version: int
    spans: tuple[tuple[int, int], ...] = ()

    def at(self, born: int) -> int:
        """Return the version at which the reader has seen the service of a birth."""
        return next((version for last, version in self.spans if born <= last), self.version)

    def moved(self, born: int, version: int) -> Seen:
        """Return the position after the events of the services until a birth, at a version."""
        rest = (span for span in self.spans if span[0] > born)
        return Seen(self.version, ((born, version), *rest))


class ResumeToken(NamedTuple):
    """A position in a watch.

    `seen`: the reader's position in the cache of the process `epoch`. `scope`: of the caller's
    rights (`server.control.authorizer.Coverage`). In a watch of one service also the message that
    was `last_sent`, and the cluster's `position` then (`server.ports.Cluster.position`); `made_at`
    is the Unix time.
    """

    epoch: str
    seen: Seen
    scope: str = ""
    last_sent: LastSent = NOTHING_SENT
    position: str = ""
    made_at: int = 0

    @property
    def is_old(self) -> bool:
        """Report whether a replica that works cannot be behind it any more."""
        return time.time() - self.made_at > OLD_SECONDS

    def encode(self, binding: str) -> str:
        """Encode the token for a watch of this binding.

        In place of one that is longer than LONGEST_TOKEN, BEGIN_ANEW is encoded.
        """
        return _encode(self, binding)


# All streams of a service have the same token after the same message.
@lru_cache(maxsize=1024)
def _encode(token: ResumeToken, binding: str) -> str:
    uid, generation, digest, remembered = token.last_sent
    sent: list[str | int] = [uid, generation, digest, remembered, token.position, token.made_at]
    spans = chain.from_iterable(token.seen.spans)
    parts = [token.epoch, token.seen.version, token.scope, *sent, *spans]
    text = encode_token([FORMAT, _seal(binding, parts), *parts])
    return text if len(text) <= LONGEST_TOKEN else _encode(BEGIN_ANEW, binding)


class SharedPosition:
    """The cluster's position of a service, asked once for each version of the cache."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._last: tuple[int, ServiceKey, str] | None = None

    def at(self, version: int, key: ServiceKey) -> str:
        """Return the position when the cache came to this version, or a later one."""
        if self._last is None or self._last[:2] != (version, key):
            self._last = version, key, self._cluster.position(key)
        return self._last[2]


# No process has this epoch.
BEGIN_ANEW = ResumeToken("", Seen(0))


def parse_resume_token(text: str, binding: str) -> ResumeToken | None:
    """Parse the token of a watch of this binding, if there is one. Raises ResumeTokenInvalid for a
    damaged one, or one of another watch."""
    if not text:
        return None
    match decode_token(text):
        case [int(release), seal, *parts] if release == FORMAT and seal == _seal(binding, parts):
            match parts:
                case [
                    str(epoch),
                    int(version),
                    str(scope),
                    str(uid),
                    int(generation),
                    str(digest),
                    str(remembered),
                    str(position),
                    int(made_at),
                    *numbers,
                ] if _are_spans(numbers):
                    seen = Seen(version, tuple(zip(numbers[::2], numbers[1::2], strict=True)))
                    last_sent = LastSent(uid, generation, digest, remembered)
                    return ResumeToken(epoch, seen, scope, last_sent, position, made_at)
        case [str(_), int(_), seal, *_] if seal == binding:
            return BEGIN_ANEW  # of a release without FORMAT
    raise ResumeTokenInvalid("resume_token must be from a watch of the same target and selector")


def _are_spans(parts: list[str | int]) -> TypeGuard[list[int]]:
    is_whole = len(parts) <= 2 * MOST_SPANS and len(parts) % 2 == 0
    return is_whole and all(isinstance(part, int) for part in parts)


def _seal(binding: str, parts: Sequence[object]) -> str:
    """Bind a token to its watch, and show damage. It is no signature: nothing rests on it."""
    return fingerprint([binding, *parts])
