"""Read which release of KServe the cluster has, by the schema of an InferenceService.

The API server publishes the schema to everybody who may use its discovery, and its index of
schemas says in a few KiB whether one has changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog

from server.adapters.kserve.client import Answer, ApiServer, Unanswered, Unreachable
from server.adapters.kserve.names import API_VERSION, KIND
from server.adapters.kserve.objects import Object
from server.adapters.kserve.releases import NEWEST, OLDEST, Release, release_of

INDEX = "/openapi/v3"
READ_AGAIN_AFTER = 60.0
# While there is no KServe, or one that cannot be worked with.
LOOK_AGAIN_AFTER = 2.0
READ_TIMEOUT = 5.0

_UNTOLD = "KServe's schema cannot be read: it is taken for the newest release"

log = structlog.get_logger(__name__)


class KServeTooOld(Exception):
    """The cluster's KServe cannot be worked with; the message is for operators and callers."""

    def __init__(self) -> None:
        super().__init__(
            f"the cluster's KServe is older than {OLDEST} (the schema of its InferenceService has"
            " no status.deploymentMode), and ModelService works with KServe"
            f" {OLDEST} and later; upgrade KServe"
        )


class ReleaseReader:
    """Knows the release as of at most a minute ago.

    `release` is the newest one where none can be read. `admitted` is set while it is one that can
    be worked with. `changed` is called with each release that differs from the one before.
    """

    def __init__(self, api: ApiServer, changed: Callable[[Release], None]) -> None:
        self.release = NEWEST
        self.admitted = asyncio.Event()
        self._api = api
        self._changed = changed
        self._schema_path = ""  # of the schema that was read last, with a hash of its content
        self._trouble_of_schema = ""
        self._read_at: float | None = None
        self._too_old = False
        self._trouble = ""

    async def run(self) -> None:
        """Keep reading, until cancelled."""
        while True:
            await self._read(READ_TIMEOUT)
            settled = self._schema_path and self.admitted.is_set()
            await asyncio.sleep(READ_AGAIN_AFTER if settled else LOOK_AGAIN_AFTER)

    async def read(self, seconds: float) -> Release | None:
        """The release, asked for at most `seconds` where it was not read lately; None where the
        API server never answered. Raises KServeTooOld."""
        if self._read_at is None or time.monotonic() - self._read_at > READ_AGAIN_AFTER:
            await self._read(min(seconds, READ_TIMEOUT))
        if self._too_old:
            raise KServeTooOld
        return self.release if self._read_at is not None else None

    async def _read(self, seconds: float) -> None:
        try:
            index = await self._ask(INDEX, seconds)
            path = _schema_path(index)
            if path and path == self._schema_path:
                self._read_at = time.monotonic()
                self._note(self._trouble_of_schema)
                return
            schema = await self._ask(path, seconds) if path else index
        except (Unreachable, Unanswered):
            return
        if self._schema_path and not (index.ok and schema.ok):
            self._note("KServe's schema cannot be read: its release is taken for what it was")
            return
        self._read_at = time.monotonic()
        self._schema_path = path if schema.ok else ""
        fields = _status_fields(schema.body) if path and schema.ok else frozenset()
        told = fields or (index.ok and not path)
        self._trouble_of_schema = "" if told else _UNTOLD
        self._note(self._trouble_of_schema)
        self._take(release_of(fields) if fields else NEWEST)

    async def _ask(self, path: str, seconds: float) -> Answer:
        """The API server's own word: what it cannot say now counts as no answer."""
        answer = await self._api.send("GET", path, timeout=seconds)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._note("the API server cannot give KServe's schema")
            raise Unanswered
        return answer

    def _take(self, release: Release | None) -> None:
        if release is None:
            if not self._too_old:
                log.error(str(KServeTooOld()))
            self._too_old = True
            self.admitted.clear()
            return
        if release != self.release or not self.admitted.is_set():
            log.info("KServe's release", release=release.name)
        self._too_old = False
        self.admitted.set()
        if release != self.release:
            self.release = release
            self._changed(release)

    def _note(self, trouble: str) -> None:
        """Log the first trouble, whose words may differ at each try, and that it is over."""
        if trouble and not self._trouble:
            log.warning(trouble)
        elif self._trouble and not trouble:
            log.info("KServe's schema can be read again")
        self._trouble = trouble


def _schema_path(index: Answer) -> str:
    """Where the schemas of KServe's API are, with a hash of them; empty where there is no KServe,
    or the index may not be read."""
    group = _map(index.body, "paths", f"apis/{API_VERSION}")
    return str(group.get("serverRelativeURL") or "") if index.ok else ""


def _status_fields(document: Object) -> frozenset[str]:
    """The fields of an InferenceService's status; none where the schema does not name them, as that
    of KServe's minimal CRDs does not."""
    schemas = _map(document, "components", "schemas")
    name = next((name for name in schemas if name.endswith(f".{KIND}")), "")
    return frozenset(_map(schemas, name, "properties", "status", "properties"))


def _map(value: Any, *path: str) -> Mapping[str, Any]:
    """The map at `path`; empty where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
