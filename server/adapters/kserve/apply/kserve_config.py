"""Read KServe's settings in this cluster: its ConfigMap `inferenceservice-config`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog

from server.adapters.kserve.apply.api_server_errors import unavailable
from server.adapters.kserve.apply.service_client import LEAST_TIME
from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.manifests.resource_defaults import KSERVE_DEFAULTS
from server.adapters.kserve.modes import STANDARD, present_name
from server.adapters.kserve.releases import NEWEST, Release
from server.deadline import Deadline
from server.domain.kubernetes.quantities import quantities
from server.domain.service.inference_service import Resources

READ_AGAIN_AFTER = 60.0
READ_TIMEOUT = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KServeConfig:
    """KServe's settings, the same for all services.

    `resources` are added where the spec has none. `default_mode` has its present name. `release`
    is not in the ConfigMap.
    """

    resources: Resources = KSERVE_DEFAULTS
    default_mode: str = STANDARD
    release: Release = NEWEST


class ConfigReader:
    """Reads the ConfigMap on demand, and at most once a minute."""

    def __init__(self, api: ApiServer, kserve_namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{kserve_namespace}/configmaps/inferenceservice-config"
        self._config = KServeConfig()
        self._read_at: float | None = None

    async def read(self, deadline: Deadline) -> KServeConfig:
        """Return the settings, at most a minute old.

        They are KServe's own defaults if there is no ConfigMap, or no right to read it. Raises
        ClusterUnavailable if nothing could be sent, or nothing was ever read: a Deploy with other
        settings than the one before could replace pods for nothing.
        """
        if self._read_at is None or time.monotonic() - self._read_at > READ_AGAIN_AFTER:
            await self._refresh(min(deadline.left(LEAST_TIME), READ_TIMEOUT))
        if self._read_at is None:
            raise unavailable()
        return self._config

    async def _refresh(self, seconds: float) -> None:
        try:
            answer = await self._api.send("GET", self._path, timeout=seconds)
        except Unreachable as e:
            # The write after it could not be sent either, and would only wait again.
            raise unavailable(e) from e
        except Unanswered:
            return
        if answer.ok:
            self._config = config_of(answer.body.get("data") or {})
        elif answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
            log.warning("KServe's ConfigMap cannot be read", path=self._path, status=answer.status)
        else:
            return
        self._read_at = time.monotonic()


def config_of(data: Mapping[str, str]) -> KServeConfig:
    """Parse the ConfigMap's data. Resources that it leaves out have no default in KServe."""
    resources = _object(_section(data, "inferenceService").get("resource"))
    mode = str(_section(data, "deploy").get("defaultDeploymentMode") or STANDARD)
    return KServeConfig(
        Resources(
            _given(cpu=resources.get("cpuRequest"), memory=resources.get("memoryRequest")),
            _given(cpu=resources.get("cpuLimit"), memory=resources.get("memoryLimit")),
        ),
        present_name(mode),
    )


def _section(data: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        section = json.loads(data.get(name) or "{}")
    except (ValueError, RecursionError):
        return {}
    return _object(section)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _given(**texts: Any) -> dict[str, str]:
    """Return the valid quantities; KServe's own webhook refuses the others."""
    return quantities({name: text for name, text in texts.items() if text})
