"""docs/security.md: its tables say what the manifests and the code do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from server import settings
from server.adapters import token_file
from server.adapters.kserve import client
from server.adapters.kserve.identity import identities
from server.adapters.kserve.informers import status_feed
from server.adapters.local.model_files import size_limits
from server.adapters.local.proxy import reverse_proxy
from server.api import authentication, call_limits, grpc_server, requests, responses
from server.api.call_limits import CallerLimits, CallLimits
from server.api.transport import certificate, client_certificates
from server.control import live_reads, watch_cache
from server.domain.kubernetes import selectors
from server.domain.revisions import kept_content
from server.domain.rollout import container_output, log_excerpt
from server.domain.service import spec_validation, validation

ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "docs/security.md").read_text()
OPTIONS = dict(grpc_server._OPTIONS)
SHIPPED = CallLimits(
    settings.Serving.model_fields["max_calls"].default,
    settings.Serving.model_fields["max_streams"].default,
)
OF_CALLER = CallerLimits(*settings.Serving().limits_of_caller())
HEALTH = dict(grpc_server._HEALTH_OPTIONS)
SERVING = settings.Serving.model_fields
SERVED, EVERYWHERE, KSERVE = "namespaces that are served", "the cluster", "KServe's namespace"
DELEGATED = "the cluster"
# Of system:auth-delegator, which Kubernetes has.
REVIEWS = {
    (DELEGATED, "authentication.k8s.io", "tokenreviews", "create"),
    (DELEGATED, "authorization.k8s.io", "subjectaccessreviews", "create"),
}
# Of callers.
CALLER_ROLES = ROOT / "k8s/base/caller-roles.yaml"
WHERE = {
    ("ClusterRole", "modelservice"): SERVED,
    ("ClusterRole", "modelservice-knative"): SERVED,
    ("ClusterRole", "modelservice-runtimes"): EVERYWHERE,
    ("Role", "modelservice"): KSERVE,
}
LIMITS = {
    "calls answered at once, of all callers": SERVING["max_calls"].default,
    "streams open at once: watches; reflection as many": SERVING["max_streams"].default,
    "calls a second of each identified caller, as many at one moment after a pause": (
        OF_CALLER.rate
    ),
    "calls answered at once, of each identified caller": OF_CALLER.calls,
    "streams open at once, of each identified caller": OF_CALLER.streams,
    "idle callers whose rate is remembered": call_limits.MOST_IDLE_CALLERS,
    "reads of each identified caller that begin at once": call_limits.READS_AT_ONCE,
    "writes of each identified caller that wait for their turn": call_limits.MOST_WRITES_WAITING,
    "memory of each identified caller's calls that wait for their turn, in bytes; one alone may be"
    " larger": call_limits.MOST_WAITING_BYTES_OF_CALLER,
    "memory of calls that wait for their turn, in bytes": call_limits.MOST_WAITING_BYTES,
    "refusals in a second that are sent at once, 20 of them at one moment": (
        call_limits.PROMPT_REFUSALS
    ),
    "memory of refusals that are held, in bytes": call_limits.MOST_HELD_BYTES,
    "memory of requests above 32 KiB that wait for the review of a known token, and of those with"
    " unknown tokens, in bytes each": call_limits.MOST_ARRIVING_BYTES,
    "connections at once of a listener, also in their handshake": grpc_server.most_connections(
        SHIPPED, encrypted=False
    ),
    "connections at once of a listener with TLS, also in their handshake": (
        grpc_server.most_connections(SHIPPED, encrypted=True)
    ),
    "a handshake, from the connection to HTTP/2 in TLS, in milliseconds": (
        OPTIONS["grpc.server_handshake_timeout_ms"]
    ),
    "connections of the listener for probes": HEALTH["grpc.max_allowed_incoming_connections"],
    "a request of the listener for probes, in bytes": HEALTH["grpc.max_receive_message_length"],
    "a file of the certificate or its key, in bytes": certificate.MOST_BYTES,
    "the file of the CAs of client certificates, in bytes": client_certificates.MOST_BYTES,
    "client certificates whose callers are remembered": client_certificates.MOST_CERTIFICATES,
    "the CN and each O of a client certificate, in bytes": client_certificates.MOST_NAME_BYTES,
    "O of a client certificate": client_certificates.MOST_GROUPS,
    "the name of a user or group to act for, in characters": authentication.MOST_NAME_CHARACTERS,
    "groups to act in": authentication.MOST_GROUPS,
    "calls of one connection at once": OPTIONS["grpc.max_concurrent_streams"],
    "a request, in bytes": OPTIONS["grpc.max_receive_message_length"],
    "a request's metadata, in bytes": OPTIONS["grpc.max_metadata_size"],
    "a token, in bytes": authentication.MOST_TOKEN_BYTES,
    "callers whose tokens are remembered; refused tokens as many": identities.MOST_TOKENS,
    "rights that are remembered; refused ones as many": identities.MOST_RIGHTS,
    "reviews at once: of unknown tokens, and of rights as many": identities.REVIEWS_AT_ONCE,
    "reviews at once of one caller's rights": identities.REVIEWS_OF_CALLER_AT_ONCE,
    "seconds until a review begins": int(identities.WAIT_SECONDS),
    "reviews of unknown tokens in a second": identities.UNKNOWN_A_SECOND,
    "calls that wait for reviews of unknown tokens": identities.UNKNOWN_WAITING,
    "the file of tokens, in bytes": token_file.MOST_BYTES,
    "a spec, in bytes": spec_validation.MOST_SPEC_BYTES,
    "variables, and arguments": spec_validation.MOST_VARIABLES,
    "labels; node labels and tolerations": spec_validation.MOST_TOLERATIONS,
    "annotations": validation.MOST_ANNOTATIONS,
    "annotations, in bytes": validation.MOST_ANNOTATION_BYTES,
    "revisions of a service that are kept": settings.Serving.model_fields["revisions"].default,
    "the content of a revision, in bytes": kept_content.LARGEST_CONTENT,
    "requirements of a selector": selectors.MOST_REQUIREMENTS,
    "services of a page": requests.PAGE_SIZE_MAX,
    "a page, in bytes, but for its last service": responses.PAGE_BYTES,
    "reads of the cluster that `rollout_id`s cause at once": live_reads.MOST_AT_ONCE,
    "last lines of a log": log_excerpt.MOST_LINES,
    "last lines of a log, in bytes": log_excerpt.MOST_BYTES,
    "logs read at once; of a service the last one that is wanted waits": status_feed.LOGS_AT_ONCE,
    "an answer of the API server, in bytes": client.LARGEST_ANSWER,
    "cache of rendered services, in bytes": responses.CACHE_BYTES,
    "deleted services that are remembered: key, uid, rollout": watch_cache.MOST_TOMBSTONES,
    "secrets of kept gates, in characters": container_output.MOST_KEPT_CHARACTERS,
    "a model's files on this machine": settings.Local.model_fields["model_size_limit"].default,
    "a model's files on this machine, their number": size_limits.AS_SHIPPED.files,
    "disk that a download on this machine leaves free, in bytes (of a small disk a 20th)": (
        size_limits.KEPT_FREE_BYTES
    ),
    "an answer of a model server on this machine, in bytes": reverse_proxy.MOST_OF_ANSWER,
}


def rows_of(section: str) -> list[list[str]]:
    """The cells of the only table of a section."""
    text = SECURITY.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def rights_of(manifest: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    where = WHERE[manifest["kind"], manifest["metadata"]["name"]]
    return {
        (where, group or "core", " ".join([resource, *named]), verb)
        for rule in manifest["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for named in ([f"({name})" for name in rule.get("resourceNames", [])],)
        for verb in rule["verbs"]
    }


def test_the_account_can_do_what_the_table_says() -> None:
    files = {*(ROOT / "k8s").rglob("*.yaml")} - {CALLER_ROLES}
    manifests = [m for file in files for m in yaml.safe_load_all(file.read_text())]
    given = {r for m in manifests if "rules" in m for r in rights_of(m)}
    if any(m.get("roleRef", {}).get("name") == "system:auth-delegator" for m in manifests):
        given |= REVIEWS
    told = {
        (where, group, resource, verb)
        for where, group, resources, verbs in rows_of("Rights of the server's account")
        for resource in re.findall(r"[^ ]+(?: \([^)]*\))?", resources)
        for verb in verbs.split()
    }
    assert told == given


def test_the_limits_are_what_the_table_says() -> None:
    told = {what: limit for what, limit, *_ in rows_of("Limits")}
    assert told.pop("health checks") == "none"
    assert told.pop("memory of services") == "a quarter of the memory limit"
    assert settings.MEMORY_SHARE == 4
    assert told == {what: str(limit) for what, limit in LIMITS.items()}


def test_the_settings_that_the_document_names_exist() -> None:
    named = set(re.findall(r"`(MODELSERVICE_\w+)`", SECURITY))
    assert named <= {variable for variable, _ in settings.described()}
