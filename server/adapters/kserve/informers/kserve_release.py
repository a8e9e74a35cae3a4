"""Read the cluster's release of KServe from the schema of an InferenceService.

Every account that may use discovery may read the schema. The API server's index of schemas has a
hash of each, so an unchanged schema costs a few KiB.
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
# While there is no KServe, or one that is too old.
LOOK_AGAIN_AFTER = 2.0
READ_TIMEOUT = 5.0

_UNKNOWN = "KServe's schema cannot be read: the newest release is assumed"

log = structlog.get_logger(__name__)


class KServeTooOld(Exception):
    """The cluster's KServe is not supported; the message is for operators and callers."""

    def __init__(self) -> None:
        super().__init__(
            f"the cluster's KServe is older than {OLDEST} (the schema of its InferenceService has"
            " no status.deploymentMode), and ModelService works with KServe"
            f" {OLDEST} and later; upgrade KServe"
        )


class ReleaseReader:
    """Hold the release, as read at most a minute ago.

    `release` is the newest one while none can be read. `admitted` is set while the release is
    supported. `changed` is called with each new release.
    """

    def __init__(self, api: ApiServer, changed: Callable[[Release], None]) -> None:
        self.release = NEWEST
        self.admitted = asyncio.Event()
        self._api = api
        self._changed = changed
        self._schema_path = ""  # of the last schema, with a hash of its content
        self._trouble_of_schema = ""
        self._read_at: float | None = None
        self._too_old = False
        self._trouble = ""

    async def run(self) -> None:
        """Read the release again and again, until cancelled."""
        while True:
            await self._read(READ_TIMEOUT)
            settled = self._schema_path and self.admitted.is_set()
            await asyncio.sleep(READ_AGAIN_AFTER if settled else LOOK_AGAIN_AFTER)

    async def read(self, seconds: float) -> Release | None:
        """Return the release, and read it for at most `seconds` if it is older than a minute. None
        if the API server never answered. Raises KServeTooOld."""
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
            self._note("KServe's schema cannot be read: the last release is assumed")
            return
        self._read_at = time.monotonic()
        self._schema_path = path if schema.ok else ""
        fields = _status_fields(schema.body) if path and schema.ok else frozenset()
        known = fields or (index.ok and not path)
        self._trouble_of_schema = "" if known else _UNKNOWN
        self._note(self._trouble_of_schema)
        self._take(release_of(fields) if fields else NEWEST)

    async def _ask(self, path: str, seconds: float) -> Answer:
        """Return the API server's answer; a 5xx counts as none."""
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
        """Log the first error of a series, whose texts may differ, and the end of the series."""
        if trouble and not self._trouble:
            log.warning(trouble)
        elif self._trouble and not trouble:
            log.info("KServe's schema can be read again")
        self._trouble = trouble


def _schema_path(index: Answer) -> str:
    """Return the path of KServe's schemas, with a hash of them; empty if there is no KServe, or the
    index may not be read."""
    group = _map(index.body, "paths", f"apis/{API_VERSION}")
    return str(group.get("serverRelativeURL") or "") if index.ok else ""


def _status_fields(document: Object) -> frozenset[str]:
    """Return the fields of an InferenceService's status. KServe's minimal CRDs name none."""
    schemas = _map(document, "components", "schemas")
    name = next((name for name in schemas if name.endswith(f".{KIND}")), "")
    return frozenset(_map(schemas, name, "properties", "status", "properties"))


def _map(value: Any, *path: str) -> Mapping[str, Any]:
    """Return the map at `path`, or an empty one."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
