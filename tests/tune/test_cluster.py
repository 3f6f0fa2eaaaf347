"""A search on a Ray cluster that was there before it and is there after it."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from tests.tune.clusters import RunningCluster, running_cluster
from tests.tune.searches import finish, only_results, own_home, run_search, start_search, trials_table, wait_for_file
from tune.command_line import parse
from tune.folder import SearchFolder
from tune.ray_session import Node, RaySession
from tune.search import fit_to_machine
from tune.space import Space
from tune.storage import Storage, remember
from tune.study import SearchStudy


@dataclass(frozen=True)
class Joined:
    cluster: RunningCluster
    home: dict[str, str]


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    home = own_home(tmp_path_factory.mktemp("cluster") / "home")
    with running_cluster(2, Path(home["HOME"])) as cluster:
        yield Joined(cluster, home)


def test_a_search_uses_all_nodes_and_goes_on_there_after_an_interruption(
    two_nodes: Joined, tmp_path: Path, write_space: Callable[..., Path]
) -> None:
    """In packs; test_faults.py kills a node under trials that have a process each."""

    def in_packs(values: dict[str, Any]) -> None:
        values["fixed"] |= {"epochs": 12}
        values |= {"trainer": "packed", "lanes": 2, "max_concurrent": 4}

    space = write_space(in_packs)
    storage = f"file://{tmp_path}/shared"
    place = ("--address", two_nodes.cluster.address, "--storage", storage)
    search = start_search("--space", space, *place, folder=tmp_path, **two_nodes.home)
    wait_for_file(search, tmp_path, "results/*/checkpoints/*/state.pt")
    (during,) = (tmp_path / "shared").iterdir()
    assert during.stat().st_mode & 0o777 == 0o700
    search.send_signal(signal.SIGUSR1)
    assert finish(search).returncode == 130
    results = only_results(tmp_path)
    assert list(results.glob("checkpoints/*/state.pt"))
    # What a driver that was killed would have left; the study knows about it.
    during.mkdir()
    (during / "writable").touch()

    run = run_search("--resume", results, *place[:2], folder=tmp_path, **two_nodes.home)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert {row["state"] for row in trials_table(tmp_path)} <= {"COMPLETE", "PRUNED"}
    assert len(trials_table(tmp_path)) == 6
    assert (results / "best" / "model.pt").exists()
    assert not list((tmp_path / "shared").iterdir())
    assert two_nodes.cluster.nodes_with("PackActor") == {0, 1}


def test_what_cannot_run_on_a_cluster_is_refused_before_anything_is_made(
    two_nodes: Joined, tmp_path: Path, write_space: Callable[..., Path]
) -> None:
    stranger = own_home(tmp_path / "stranger")
    address = two_nodes.cluster.address
    large = write_space(lambda values: values.update(resources={"cpu": 2}), "large.yaml")
    (tmp_path / "file").touch()
    cases = {
        "The cluster has 2 nodes, whose checkpoints must meet in a place that all of them reach; give one with": (
            ("--space", write_space(), "--address", address),
            two_nodes.home,
        ),
        "The value of `resources` is cpu 2 and gpu 0, but must fit one node: 1 CPUs, 0 GPUs.": (
            ("--space", large, "--address", address, "--storage", "shared"),
            two_nodes.home,
        ),
        "The value of `storage` is file, but must be a folder that can be written, or the URI of one": (
            ("--space", write_space(), "--address", address, "--storage", "file"),
            two_nodes.home,
        ),
        "The value of `storage` is carrier-pigeon://coop, but must be a folder that can be written, or the": (
            ("--space", write_space(), "--address", address, "--storage", "carrier-pigeon://coop"),
            two_nodes.home,
        ),
        f"There is no token for the cluster at {address} in {stranger['HOME']}/.ray/auth_token": (
            ("--space", write_space(), "--address", address),
            stranger,
        ),
        f"The cluster at {address} refuses the token in RAY_AUTH_TOKEN": (
            ("--space", write_space(), "--address", address),
            {**stranger, "RAY_AUTH_TOKEN": "another"},
        ),
        "The value of `--address` is 127.0.0.1:1, but must be that of a running Ray cluster with a node on": (
            ("--space", write_space(), "--address", "127.0.0.1:1"),
            two_nodes.home,
        ),
    }
    searches = [start_search(*options, folder=tmp_path, **home) for options, home in cases.values()]
    for sentence, search in zip(cases, searches, strict=True):
        run = finish(search)
        assert run.returncode == 2, run.stderr
        assert run.stderr.startswith(f"tune.search: {sentence}")
        assert run.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()
    assert not list(tmp_path.glob("shared/*"))


def test_a_cluster_that_is_open_to_all_is_joined_only_by_those_who_say_so(
    tmp_path: Path, write_space: Callable[..., Path]
) -> None:
    home = own_home(tmp_path / "home")
    large = write_space(lambda values: values.update(resources={"cpu": 2}))
    (tmp_path / "home" / ".ray").mkdir()
    (tmp_path / "home" / ".ray" / "auth_token").write_text("any")
    with running_cluster(1, Path(home["HOME"]), RAY_AUTH_MODE="disabled") as cluster:
        options = ("--space", large, "--address", cluster.address)
        searches = [
            start_search(*options, folder=tmp_path, **home),
            start_search(*options, folder=tmp_path, **home, RAY_AUTH_MODE="disabled"),
        ]
        refused, joined = map(finish, searches)
    assert f"The cluster at {cluster.address} takes requests without a token" in refused.stderr
    assert "must fit this machine: 1 CPUs" in joined.stderr
    assert (tmp_path / "home" / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--address", "ray://head:10001"], "is ray://head:10001, but must be `auto` or host:port: Ray Tune does not"),
        (["--address", "head"], "The value of `--address` is head, but must be `auto` or host:port."),
        (["--address", "head:6379", "--no-dashboard"], "The option --no-dashboard does nothing with --address"),
    ],
)
def test_an_address_that_no_search_can_use_is_refused(options: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(["--space", "quick", *options])


def test_auto_is_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(UserError, match="`--address` is ray://head:10001, but"):
        parse(["--space", "quick", "--address", "auto"])


def test_what_a_journal_names_is_removed_only_if_a_search_has_made_it(tiny_space: Space, tmp_path: Path) -> None:
    """A results folder may come from anybody."""
    folder = SearchFolder(tmp_path / "search")
    folder.create(tiny_space)
    study = SearchStudy(tiny_space, folder.journal, "search")
    now = Storage.find(str(tmp_path), "now-01234567")
    left = Storage.find(str(tmp_path), "search-89abcdef")
    left.make()
    for other in ("precious", "precious-89abcdef"):
        (tmp_path / other).mkdir()
        study.keep("storage", [str(tmp_path), other])
        remember(now, study)
        assert (tmp_path / other).is_dir()
    study.keep("storage", [str(tmp_path), left.name])
    remember(now, study)
    assert not left.is_here()


def test_trials_share_the_nodes_and_each_lies_on_one(tiny_space: Space) -> None:
    space = tiny_space.changed(trials=100, storage="shared")
    nodes = RaySession((Node(0, 0), Node(8, 2), Node(8, 0)), None, Path())
    fitted, concurrent, _ = fit_to_machine(space, nodes)  # a quarter of a GPU each
    assert (fitted.fixed["device"], concurrent) == ("cuda", 8)
    gpus_alone = space.changed(resources=space.resources.model_copy(update={"cpu": 0.5, "gpu": 0.4}))
    assert fit_to_machine(gpus_alone, nodes)[1] == 4  # a share is of one GPU
    no_gpu = space.changed(resources=space.resources.model_copy(update={"gpu": 0.0, "cpu": 3}))
    assert fit_to_machine(no_gpu, nodes)[1] == 4
