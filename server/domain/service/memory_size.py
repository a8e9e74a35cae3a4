"""Estimate the memory that a service takes, from its texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import filterfalse

from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelPredictor,
    Predictor,
    RegisteredModelPredictor,
)

# On KServe the InferenceService, its Deployment, its ReplicaSet and its pod each hold an object for
# every variable of a service of more than 64 KiB: some 1 KiB for its two texts, besides their
# characters. Those of a smaller service are compressed and take a third.
TEXT_BYTES = 512
# Bytes per character of a text that is not ASCII.
WIDE = 4
# Any service: its status, its objects in the cluster, and its index entries.
SERVICE_BYTES = 16 * 1024


def size_in_memory(
    spec: InferenceServiceSpec | None, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> int:
    """Estimate the bytes of a service with this spec, these labels and these annotations.

    The same texts always count the same. The estimate is close for a service of one pod on KServe,
    and high for the local cluster.
    """
    maps, texts = [labels, annotations], list[str]()
    if spec:
        resources = spec.resources
        maps += [spec.env, spec.node_selector, resources.requests, resources.limits]
        texts += _other_texts(spec)
    for entries in maps:
        texts += [*entries.keys(), *entries.values()]
    wide = sum(map(len, filterfalse(str.isascii, texts)))
    return SERVICE_BYTES + TEXT_BYTES * len(texts) + sum(map(len, texts)) + (WIDE - 1) * wide


def _other_texts(spec: InferenceServiceSpec) -> Iterator[str]:
    """Yield the texts of a spec that are not in a map of texts."""
    for name, reference in spec.secret_env.items():
        yield from (name, reference.secret, reference.key)
    for toleration in spec.tolerations:
        yield from (toleration.key, toleration.value)
    yield from _of_predictor(spec.predictor)


def _of_predictor(predictor: Predictor | None) -> Iterator[str]:
    match predictor:
        case ContainerPredictor(image=image, command=command, args=args):
            yield from (image, *command, *args)
        case ModelPredictor(format=model_format, storage_uri=uri, runtime=runtime, args=args):
            yield from (model_format.name, model_format.version, uri, runtime, *args)
        case RegisteredModelPredictor(resolved=resolved):
            yield from _of_predictor(resolved)
