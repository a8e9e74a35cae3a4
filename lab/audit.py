"""The API server's audit log: who asked for what, and what the answer was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One entry for each request, written before its answer is sent (of a watch: when it begins and
# when it ends).
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class AuditEntry:
    """One request; `resource` is "pods/log" for a subresource, empty for a path like /healthz."""

    user: str
    verb: str
    resource: str
    group: str
    namespace: str
    name: str
    uri: str
    code: int
    stage: str
    user_agent: str


def read_audit(log: Path, mentioning: str = "") -> list[AuditEntry]:
    """The entries of `log` whose line has this text, oldest first.

    A line that is still being written is left out.
    """
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    # Most of a long log is others' requests: they are not worth parsing.
    wanted = (line for line in lines if line.endswith("\n") and mentioning in line)
    return [_entry(json.loads(line)) for line in wanted]


def _entry(event: dict[str, Any]) -> AuditEntry:
    target = event.get("objectRef", {})
    parts = [target.get("resource", ""), target.get("subresource", "")]
    return AuditEntry(
        user=event["user"].get("username", ""),
        verb=event["verb"],
        resource="/".join(filter(None, parts)),
        group=target.get("apiGroup", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        uri=event["requestURI"],
        code=event.get("responseStatus", {}).get("code", 0),
        stage=event["stage"],
        user_agent=event.get("userAgent", ""),
    )
