"""The KubeRay job and its image, as far as they can be checked without a Kubernetes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from tune.command_line import parse
from tune.space import find_space, load_space

FOLDER = Path("deploy/kuberay")

#: The fields of KubeRay's `ray.io/v1` that a search may need, from its API reference.
FIELDS = {
    "RayJob": "apiVersion kind metadata spec",
    "RayJobSpec": "activeDeadlineSeconds backoffLimit entrypoint rayClusterSpec runtimeEnvYAML submissionMode "
    "shutdownAfterJobFinishes submitterPodTemplate suspend ttlSecondsAfterFinished",
    "RayClusterSpec": "authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec rayVersion workerGroupSpecs",
    "HeadGroupSpec": "rayStartParams serviceType template",
    "WorkerGroupSpec": "groupName maxReplicas minReplicas numOfHosts rayStartParams replicas template",
}


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    loaded = yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text())
    return {document["kind"]: document for document in loaded}


@pytest.fixture(scope="module")
def cluster(documents: dict[str, Any]) -> Any:
    return documents["RayJob"]["spec"]["rayClusterSpec"]


def groups(cluster: Any) -> list[Any]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_job_has_only_fields_that_kuberay_knows(documents: dict[str, Any], cluster: Any) -> None:
    job = documents["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert job["spec"]["ttlSecondsAfterFinished"] == 0 or job["spec"]["shutdownAfterJobFinishes"] is True
    parts = {"RayJob": [job], "RayJobSpec": [job["spec"]], "RayClusterSpec": [cluster]}
    parts |= {"HeadGroupSpec": [cluster["headGroupSpec"]], "WorkerGroupSpec": cluster["workerGroupSpecs"]}
    for kind, objects in parts.items():
        for part in objects:
            assert part.keys() <= set(FIELDS[kind].split()), kind
    for group in groups(cluster):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # numbers are refused


def test_the_cluster_asks_for_a_token_and_keeps_its_metrics_to_itself(cluster: Any) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    for group in groups(cluster):
        (container,) = group["template"]["spec"]["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["RAY_enable_metrics_collection"] == "0"
        assert environment["DASHBOARD_METRIC_PORT"] == environment["AUTOSCALER_METRIC_PORT"] == "-1"


def test_the_entrypoint_is_a_search_whose_files_are_on_the_shared_volume(
    documents: dict[str, Any], cluster: Any
) -> None:
    python, module, name, *arguments = shlex.split(documents["RayJob"]["spec"]["entrypoint"])
    assert (python, module, name) == ("python", "-m", "tune.search")
    options = parse(arguments)
    load_space(find_space(options.space))
    assert options.address == "auto"
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in groups(cluster):
        pod = group["template"]["spec"]
        (volume,), (mount,) = pod["volumes"], pod["containers"][0]["volumeMounts"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mount["name"] == volume["name"]
        for folder in (str(options.results), options.storage):
            assert Path(folder).is_relative_to(mount["mountPath"])


def test_the_image_has_the_version_of_ray_that_was_tested_and_all_that_is_installed(cluster: Any) -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    assert f"ARG RAY_IMAGE=rayproject/ray:{ray.__version__}-py311-cpu" in lines
    assert cluster["rayVersion"] == ray.__version__
    sources = [source for line in lines if line.startswith("COPY") for source in line.split()[2:-1]]
    assert all(Path(source).exists() for source in sources)
    packages = re.search(r"packages = \[(.+)\]", Path("pyproject.toml").read_text())
    assert packages
    assert {name.strip(' "').split(".")[0] for name in packages[1].split(",")} <= set(sources)
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups(cluster)}
    assert len(images) == 1  # a cluster of several versions does not start
