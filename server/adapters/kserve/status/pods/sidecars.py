"""Recognise the containers that KServe and Knative add to a pod, by name."""

from __future__ import annotations

import re

# KServe numbers the containers of the second model image of a service and of later ones.
_MODEL_IMAGE = re.compile(r"modelcar(-init)?(-\d+)?")
_STORAGE_INITIALIZER = "storage-initializer"
# They relay requests to the model server and take over its readiness probe.
_RELAYS = ("queue-proxy", "agent")
_BATCHER = "batcher"


def is_of_model_image(container: str) -> bool:
    """Return whether the container is made from the image of an `oci://` storage URI."""
    return bool(_MODEL_IMAGE.fullmatch(container))


def fetches_model(container: str) -> bool:
    """Return whether the container fetches the model's files for the model server."""
    return container == _STORAGE_INITIALIZER or is_of_model_image(container)


def relays_requests(container: str) -> bool:
    """Return whether the container's readiness is that of the model server behind it."""
    return container in _RELAYS


def is_added(container: str) -> bool:
    """Return whether KServe or Knative sets the container's image, command and limits."""
    return fetches_model(container) or relays_requests(container) or container == _BATCHER
