"""The remedies of cases for which that of the failure reason is not exact enough."""

from __future__ import annotations

# Of POD_REJECTED, where the pods' service account is missing.
MAKE_SERVICE_ACCOUNT = "make the service account, or name one that exists in the namespace"
# Of STORAGE_DOWNLOAD, where the model is an image.
CHECK_MODEL_IMAGE = (
    "put the model's files into the image's folder /models; the image must have a shell too"
)
# Of OUT_OF_MEMORY, where the container is not the caller's.
RAISE_LIMIT_OF_ADDED = (
    "ask the cluster administrator to raise the memory limit that the configuration of KServe or"
    " Knative gives this container"
)
