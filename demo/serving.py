"""A server that stays, and what to call it with."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from demo import ROOT, SERVING_PYTHON
from demo.training import trained

_HINTS = """\
With grpcurl, in another terminal; what you deploy is there again when the server is started again:

grpcurl -plaintext -d '{{"name": "iris", "spec": {{"model": {{
    "format": {{"name": "sklearn"}}, "storage_uri": "{model}"}}}}}}' \\
  {address} modelservice.v1.ModelService/Deploy

grpcurl -plaintext -d '{{"name": "iris", "until": "UNTIL_READY"}}' \\
  {address} modelservice.v1.ModelService/WatchStatus

curl -H 'Content-Type: application/json' -d '{{"inputs": [
    {{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}}]}}' \\
  URL/v2/models/iris/infer    # URL is the url in the status above

grpcurl -plaintext -d '{{"name": "iris"}}' {address} modelservice.v1.ModelService/Delete

docs/modelctl.md has the command line, and docs/clients.md the Python client.
"""


def serve() -> NoReturn:
    """Train a model to deploy, say how, and become the server, until Ctrl-C. Raises NotTrained."""
    model = ROOT / "build" / "demo" / "iris.joblib"
    model.parent.mkdir(parents=True, exist_ok=True)
    trained(model)
    address = os.environ.get("MODELSERVICE_LISTEN", "127.0.0.1:50051")
    print(_HINTS.format(model=model, address=address), flush=True)
    os.environ.setdefault("KSERVE_ENABLED", "false")
    os.environ.setdefault("MODELSERVICE_SERVING_PYTHON", str(SERVING_PYTHON))
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "server"])
