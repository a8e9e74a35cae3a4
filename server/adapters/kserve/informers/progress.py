"""How far a replica has read a collection of the API server, by resourceVersions.

resourceVersions of one resource are integers that grow with every write: Kubernetes promises it
since 1.35 (KEP-5504), and every API server on etcd does so. One that is no integer counts as 0,
which orders nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.objects import Object, version_of

# etcd's revisions have 63 bits.
_LONGEST = 19


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a collection is read.

    `newest`: the newest resourceVersion of an object, deleted ones included. `read_to`: every
    change until this resourceVersion is read: that of a list, an event or a bookmark. `absent`: the
    collection is missing, or may not be read.

    Another replica that watches the same collection gets the event of `newest` as well, however
    quiet the collection is afterwards. A list does not show when the objects that are missing in it
    were deleted. So a deletion counts only once it was watched, or once something newer was listed.
    """

    newest: int = 0
    read_to: int = 0
    absent: bool = False

    def listed(self, version: str, objects: Sequence[Object]) -> Progress:
        """Return the progress after a list of this resourceVersion."""
        read_to = parse_version(version)
        newest = max((number_of_version(o) for o in objects), default=0)
        # A cluster that was restored from a backup counts from there again.
        known = self.newest if self.newest <= read_to else 0
        return Progress(max(newest, known), read_to)

    def read(self, event: WatchEvent) -> Progress:
        """Return the progress after an event of the watch."""
        version = parse_version(event.resource_version)
        newest = self.newest if event.type == "BOOKMARK" else max(version, self.newest)
        return Progress(newest, max(version, self.read_to))


def parse_version(version: object) -> int:
    """Parse a resourceVersion; 0 if it is no integer."""
    text = str(version)
    return int(text) if len(text) <= _LONGEST and text.isascii() and text.isdecimal() else 0


def number_of_version(found: Object) -> int:
    """Return the resourceVersion of an object as a number."""
    return parse_version(version_of(found))


def encode_position(newest: Mapping[str, int]) -> str:
    """Encode the newest resourceVersions by collection."""
    return " ".join(f"{name}={version}" for name, version in newest.items() if version)


def decode_position(position: str) -> Iterable[tuple[str, int]]:
    """Decode a position. Parts that are no part of one count for nothing."""
    for part in position.split():
        name, _, version = part.partition("=")
        yield name, parse_version(version)
