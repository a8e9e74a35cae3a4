"""The state directory: private, whole or not at all, and one server's at a time."""

from __future__ import annotations

import dataclasses
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, settings

from server.adapters.local import cluster
from server.adapters.local.state_dir import PARTIAL_SUFFIX, StateDirUnusable, open_state_dir
from server.adapters.local.stored_service import Record, from_json, to_json
from server.domain.service.canonical_spec import canonical_deploy
from server.domain.service.commands import Deploy, Provenance
from server.domain.service.deploy_plan import plan_deploy
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    RegisteredModelPredictor,
    Resources,
    Scaling,
    ServiceKey,
)
from tests import strategies
from tests.adapters.local.world import eventually, world_of
from tests.patience import PATIENCE_SECONDS


def record_of(deploy: Deploy) -> Record:
    deploy = dataclasses.replace(canonical_deploy(deploy), etag="", restart=False)
    _, wanted = plan_deploy(deploy, None)
    return Record(wanted, 20_000, datetime.now(UTC))


def iris(**fields: object) -> Record:
    spec = InferenceServiceSpec(ModelPredictor(ModelFormat("sklearn"), "/m"))
    return record_of(Deploy(ServiceKey("a", "iris"), spec, **fields))  # type: ignore[arg-type]


@given(strategies.deploys())
def test_every_valid_deploy_is_read_back_as_it_was_stored(deploy: Deploy) -> None:
    record = record_of(deploy).with_ready()
    assert from_json(to_json(record)) == record.without_contents()


def test_a_registered_deploy_is_read_back_as_it_was_stored() -> None:
    model = ModelPredictor(ModelFormat("sklearn"), "/m")
    predictor = RegisteredModelPredictor("fruit", "iris", "staging", "1", model)
    provenance = Provenance("model-1", "version-1", "environment-1", "service-1", "deployment-1")
    deploy = Deploy(ServiceKey("a", "iris"), InferenceServiceSpec(predictor), provenance=provenance)
    record = record_of(deploy).with_ready()
    assert from_json(to_json(record)) == record.without_contents()
    assert record.service.deployment_id == "deployment-1"


def test_a_record_of_a_release_before_the_registry_is_read() -> None:
    """As the release before wrote it."""
    file = Path(__file__).parent / "stored_before_the_registry.json"
    service = from_json(file.read_bytes()).service
    assert service.spec == InferenceServiceSpec(
        ModelPredictor(ModelFormat("sklearn", "1"), "/models/iris.joblib", args=("--verbose",)),
        env={"A": "1"},
        resources=Resources({"cpu": "1"}),
        scaling=Scaling(1, 3, 70, "cpu"),
        request_timeout=timedelta(seconds=90),
    )
    assert (service.labels, service.annotations) == ({"team": "a"}, {"note": "x"})
    assert service.deployment_id == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(strategies.deploys())
def test_a_file_is_the_services_own_and_replaced_as_a_whole(tmp_path: Path, deploy: Deploy) -> None:
    with open_state_dir(tmp_path / "state") as state:
        first = record_of(deploy)
        state.write(first)
        second = dataclasses.replace(first, port=20_001)
        state.write(second)
        assert second.without_contents() in state.records()
        state.remove(first.service)
        assert state.records() == []


def test_only_the_user_may_read_the_directory(tmp_path: Path) -> None:
    with open_state_dir(tmp_path / "state") as state:
        state.write(iris())
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "state").rglob("*")}
    assert modes == {
        "services": 0o700,
        "contents": 0o700,
        "work": 0o700,
        "lock": 0o600,
        "id": 0o600,
        "a.iris.json": 0o600,
    }
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_an_interrupted_write_leaves_the_old_record(tmp_path: Path) -> None:
    with open_state_dir(tmp_path / "state") as state:
        state.write(iris())
        (tmp_path / "state" / "services" / "a.iris.new").write_bytes(b"{")
    with open_state_dir(tmp_path / "state") as state:
        assert [record.service.key.name for record in state.records()] == ["iris"]
        assert not list((tmp_path / "state").rglob("*.new"))


def test_a_file_that_cannot_be_read_is_set_aside_and_logged_and_the_others_are_read(
    tmp_path: Path,
) -> None:
    services = tmp_path / "state" / "services"
    with open_state_dir(tmp_path / "state") as state:
        state.write(iris())
        for name, content in (("a.broken.json", b"{}"), ("a.old.json", b"\xff")):
            (services / name).write_bytes(content)
        with structlog.testing.capture_logs() as logged:
            assert [record.service.key.name for record in state.records()] == ["iris"]
        assert [Path(each["file"]).name for each in logged] == ["a.broken.json", "a.old.json"]
        assert [Path(each["set_aside"]).read_bytes() for each in logged] == [b"{}", b"\xff"]
        with structlog.testing.capture_logs() as logged:
            assert len(state.records()) == 1
        assert not logged


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StateDirUnusable, match=r"MODELSERVICE_STATE_DIR: .*/file/state"),
        open_state_dir(tmp_path / "file" / "state"),
    ):
        pass


def test_the_directory_keeps_its_owner_id_when_it_is_moved(tmp_path: Path) -> None:
    owners = []
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "c"):
        with open_state_dir(folder) as state:
            owners.append(state.owner)
        if folder.name == "a":
            folder.rename(tmp_path / "b")
    assert owners[0] == owners[1] != owners[2]


def test_the_folders_of_no_generation_are_unused(tmp_path: Path) -> None:
    with open_state_dir(tmp_path / "state") as state:
        for uid, generation in (("kept", 1), ("kept", 2), ("stopped", 3), ("gone", 1)):
            (state.work(uid, generation) / "model").mkdir(parents=True)
        (state.work("kept", 2) / f".model.abc{PARTIAL_SUFFIX}").mkdir()
        (state.work("kept", 2).with_name(f".1.abc{PARTIAL_SUFFIX}")).mkdir()
        found = {
            str(p.relative_to(tmp_path)) for p in state.unused_folders({"kept": [2], "stopped": []})
        }
        partial = (f"kept/.1.abc{PARTIAL_SUFFIX}", f"kept/2/.model.abc{PARTIAL_SUFFIX}")
        left = {"kept/1", "stopped/3", "gone", *partial}
        assert found == {f"state/work/{folder}" for folder in left}


async def test_a_start_does_not_wait_for_the_removal_of_unused_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, may = cluster.remove, threading.Event()

    def slowly(folders: list[Path]) -> None:
        assert may.wait(2 * PATIENCE_SECONDS)
        remove(folders)

    monkeypatch.setattr(cluster, "remove", slowly)
    left = tmp_path / "state" / "work" / "gone"
    (left / "1" / "model").mkdir(parents=True)
    async with world_of(tmp_path) as world:
        try:
            deployed = await world.deploy(world.model())
            assert left.exists()
        finally:
            may.set()
        await eventually("its removal", lambda: not left.exists())
        await world.told.ready(deployed.service.key, deployed.service.generation)
        assert len(list((tmp_path / "state" / "work").iterdir())) == 1, "what is needed stays"
