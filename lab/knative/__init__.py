"""Knative Serving for the lab: its own webhook, controller and autoscaler, and stand-ins for what
it asks of others: an ingress and, on a simulated node, the pods' measurements."""

from .node import ConnectedNode, check_knative
from .serving import KnativeServing

__all__ = ["ConnectedNode", "KnativeServing", "check_knative"]
