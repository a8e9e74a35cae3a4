"""The demo itself, from a trained model to a clean end."""

from __future__ import annotations

from pathlib import Path

import grpc
import psutil

from demo.calling import NAME, Client, failure_of, predict
from demo.server_process import server_process
from demo.telling import Screen
from demo.training import broken, trained

# Sepal length and width, petal length and width, in cm: one flower of each species.
FLOWERS = {
    "setosa": (5.1, 3.5, 1.4, 0.2),
    "versicolor": (6.0, 2.9, 4.5, 1.5),
    "virginica": (6.5, 3.0, 5.8, 2.2),
}

# It is on this machine, whatever the environment says of the way to others.
_NO_PROXY = [("grpc.enable_http_proxy", 0)]


class WentWrong(Exception):
    """Something that the demo shows did not come out as it should."""


def tell(folder: Path) -> None:
    """Run the whole demo with its files in a folder.

    Raises NotTrained, ServerFailed, WentWrong and grpc.RpcError.
    """
    screen = Screen()
    good, bad = folder / "iris.joblib", folder / "iris-cut-off.joblib"
    with screen.step("Train a model with scikit-learn"):
        screen.note(trained(good))
        screen.note(f"saved as {good}")
        broken(bad, from_model=good)
    with server_process(folder) as server:
        with screen.step("Start the server", "python -m server"):
            address = server.address()
            screen.note(f"it listens on {address}")
        with grpc.insecure_channel(address, _NO_PROXY) as channel:
            _call(screen, Client(channel), good, bad)
            processes = server.processes()
            with screen.step("Delete it", "Delete, WatchStatus until GONE"):
                Client(channel).delete()
                screen.note("it is gone")
        with screen.step("Stop the server"):
            server.stop()
            _see_that_none_is_left(screen, processes)


def _call(screen: Screen, client: Client, good: Path, bad: Path) -> None:
    client.wait_until_serving()
    with screen.step("Deploy the model, and wait until it is ready", "Deploy, WatchStatus"):
        url = _deploy(screen, client, good)
    with screen.step("Ask it", f"POST {url}/v2/models/{NAME}/infer"):
        for flower, measures in FLOWERS.items():
            _ask(screen, url, flower, measures)
    with screen.step("Deploy a file that was cut off", "the same two calls"):
        _deploy_broken(screen, client, bad)
    with screen.step("Ask again: the model from before serves on"):
        _ask(screen, url, "virginica", FLOWERS["virginica"])


def _see_that_none_is_left(screen: Screen, processes: list[psutil.Process]) -> None:
    left = [process for process in processes if process.is_running()]
    if left:
        raise WentWrong(f"processes are left: {left}")
    screen.note(f"its {len(processes)} processes have ended, none is left")


def _deploy(screen: Screen, client: Client, model: Path) -> str:
    """Follow a deployment until it is ready, and answer where to ask it."""
    url = ""
    for service in client.follow(client.deploy(model).rollout_id):
        screen.state(service)
        url = service.status.url
    return url


def _deploy_broken(screen: Screen, client: Client, model: Path) -> None:
    try:
        _deploy(screen, client, model)
    except grpc.RpcError as e:
        failed = failure_of(e)
        screen.note(f"the watch ends with {failed.code}, {failed.reason}:")
        screen.failure(failed.failure)
    else:
        raise WentWrong("half of a model was served")


def _ask(screen: Screen, url: str, flower: str, measures: tuple[float, ...]) -> None:
    answer = predict(url, measures)
    screen.note(f"{measures} -> {answer}")
    if answer != flower:
        raise WentWrong(f"it is {flower}")
