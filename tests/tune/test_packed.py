"""Packed trials: each gives what it gives alone, whatever happens to the process that it shares with others."""

import asyncio
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import Config
from core.errors import UserError
from core.scores import References, references
from core.training_pack import Event, TrainingPack
from tests.tune.searches import (
    finish,
    kill_workers,
    load_study,
    only_results,
    start_search,
    trials_table,
    wait_for_file,
    workers,
)
from tune.folder import MODEL_FILE, STATE_FILE
from tune.packed.host import Host
from tune.packed.packs import Placement
from tune.ranking import Ranking
from tune.ray_session import Node, RaySession
from tune.search import fit_to_machine
from tune.space import Space, load_space
from tune.trainable import DONE, EPOCH, FAILED, SCORES, SETTINGS, TEST
from tune.training import Training

SETTINGS_OF_ALL = {
    **{"hidden_dims": [16], "n_steps": 1, "dropout": 0.0, "dt_scale": "pair", "bounds_relative": True},
    **{"weight_decay": 0.0, "epochs": 4, "evaluate_every": 2, "eval_periods": [1], "num_orbits": 2},
    **{"max_retrain_steps": 20, "replay_steps": 20, "replay_batch_size": 16, "device": "cpu", "energy_threshold": 1e-3},
}


def settings(seed: int, **changes: Any) -> Config:
    return Config.from_mapping({**SETTINGS_OF_ALL, "seed": seed, **changes})


def alone(config: Config, curves: References, test: References | None = None) -> list[dict[str, Any]]:
    """What a training reports that has a process of its own."""
    training, reports = Training(config, curves, test), []
    while not reports or not reports[-1][DONE]:
        stretch = training.advance()
        report = {EPOCH: stretch.epoch, SCORES: stretch.scores, DONE: stretch.done, FAILED: stretch.failed}
        reports.append(report | ({TEST: stretch.test} if stretch.test else {}))
    return reports


class Client:
    """The calls that a client makes for its trial."""

    def __init__(self, host: Host, name: str, config: Config, curves: References, test: References | None):
        self.host, self.name, self.config, self.sets = host, name, config, (curves, test)
        self.incarnation = 1
        self.reports: list[dict[str, Any]] = []

    async def attach(self, files: dict[str, bytes], told: dict[str, Any]) -> None:
        async def value(of: Any) -> Any:
            return of

        sets = [asyncio.ensure_future(value(one)) for one in self.sets]
        config = {SETTINGS: self.config.to_dict()}
        await self.host.attach(self.name, self.incarnation, config, files, told, sets)

    async def run(self, *, epochs: int = 10**9) -> "Client":
        while True:
            result = await self.host.advance(self.name, self.incarnation)
            assert result is not None
            if SCORES in result or FAILED in result:
                self.reports.append(result)
            if result[DONE] or result[EPOCH] >= epochs:
                return self


@pytest.fixture(scope="module")
def curves() -> References:
    return references(settings(0))


@pytest.mark.parametrize("repeats", [False, True], ids=["trials", "repeats"])
def test_trials_in_one_pack_actor_report_what_they_report_alone(curves: References, repeats: bool) -> None:
    """Two shapes, a failure, and one that goes on from its files, taken over by a newer incarnation of its client."""
    test = curves if repeats else None
    configs = [
        settings(1),
        settings(2, feature_type="rich", history_len=1, num_orbits=3),
        settings(3, lr=1e300, epochs=400),
        settings(4, step_rule="reversible"),
        settings(6, hidden_dims=(24,)),
        settings(5, lr=3e-3),
    ]

    async def moved(client: Client) -> Client:
        if not repeats:  # these are scored on their way
            await client.run(epochs=1)
        told = client.reports[-1] if client.reports else {}
        files = await client.host.save(client.name, 1, told)
        assert files is not None
        assert set(files) == {MODEL_FILE, STATE_FILE}
        client.incarnation = 2
        assert await client.host.advance(client.name, 2) is None  # it does not know this one yet
        await client.attach(files, told)
        assert await client.host.advance(client.name, 1) is None
        with pytest.raises(RuntimeError, match="a newer incarnation"):
            await client.host.attach(client.name, 1, {}, {}, {}, [])
        return await client.run()

    async def all_of_them() -> list[Client]:
        host = Host(3, 1)
        clients = [Client(host, str(number), config, curves, test) for number, config in enumerate(configs)]
        for client in clients:
            await client.attach({}, {})
        ended = await asyncio.gather(*(client.run() for client in clients[:-1]), moved(clients[-1]))
        for client in clients:
            host.release(client.name)
        return ended

    for client, config in zip(asyncio.run(all_of_them()), configs, strict=True):
        expected = alone(config, curves, test)
        assert len(expected) == (1 if repeats else 3 if config.lr > 1 else 2)
        for one, other in zip(client.reports, expected, strict=True):
            assert {key: one[key] for key in (EPOCH, DONE)} == {key: other[key] for key in (EPOCH, DONE)}
            assert one.get(SCORES, {}) == other[SCORES]
            assert one.get(TEST) == other.get(TEST)
            assert one.get(FAILED, "") == other[FAILED]
        assert ("not finite" in expected[-1][FAILED]) == (config.lr > 1)


def test_trials_that_are_too_large_together_are_trained_in_smaller_packs(
    curves: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full GPU: each begins again where it was saved, in packs of half as many, and one that fails is alone."""
    advance, sizes = TrainingPack.advance, []

    def short_of_memory(pack: TrainingPack) -> list[Event]:
        sizes.append(len(pack))
        if len(pack) > 2 or any(member.lane.config.lr == 1e-7 for member in pack._members.values()):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of the kind.")
        return advance(pack)

    monkeypatch.setattr(TrainingPack, "advance", short_of_memory)
    configs = [settings(1), settings(2, lr=1e-7), settings(3), settings(4), settings(5), settings(6)]

    async def run(client: Client) -> Client:
        while True:
            try:
                return await client.run()
            except AssertionError:  # it is not attached any more
                await client.attach({}, {})

    async def all_of_them() -> list[Client]:
        host = Host(6, 1)
        clients = [Client(host, str(number), config, curves, None) for number, config in enumerate(configs)]
        for client in clients:
            await client.attach({}, {})
        return await asyncio.gather(*(run(client) for client in clients))

    clients = asyncio.run(all_of_them())
    assert {6, 3, 1} <= set(sizes)
    for client in clients:
        if client.config.lr == 1e-7:
            expected = "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)"
            assert client.reports[-1][FAILED] == expected
        else:
            expected_scores = [report[SCORES] for report in alone(client.config, curves)]
            assert [report[SCORES] for report in client.reports] == expected_scores


def test_a_trial_that_raises_does_so_alone(curves: References, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours go on without it, and score what they score alone."""
    advance = TrainingPack.advance

    def faulty(pack: TrainingPack) -> list[Event]:
        if any(member.lane.config.lr == 1e-7 and member.lane.epoch for member in pack._members.values()):
            raise RuntimeError("something that nobody has thought of")
        return advance(pack)

    monkeypatch.setattr(TrainingPack, "advance", faulty)
    configs = [settings(1), settings(2, lr=1e-7), settings(3), settings(4)]

    async def run(client: Client) -> str:
        try:
            await client.run()
        except AssertionError:  # it is not attached any more
            await client.attach({}, {})
            try:
                await client.run()
            except RuntimeError as error:
                return str(error)
        return ""

    async def all_of_them() -> tuple[list[Client], list[str]]:
        host = Host(4, 1)
        clients = [Client(host, str(number), config, curves, None) for number, config in enumerate(configs)]
        for client in clients:
            await client.attach({}, {})
        return clients, await asyncio.gather(*(run(client) for client in clients))

    clients, errors = asyncio.run(all_of_them())
    assert errors == ["", "RuntimeError: something that nobody has thought of", "", ""]
    for client, error in zip(clients, errors, strict=True):
        if not error:
            expected_scores = [report[SCORES] for report in alone(client.config, curves)]
            assert [report[SCORES] for report in client.reports] == expected_scores


CLIENTS = "ray::Clients"


def packed(values: dict[str, Any]) -> None:
    values["parameters"] |= {"step_rule": {"choice": ["direct", "reversible"]}, "dropout": {"choice": [0.0, 0.1]}}
    del values["fixed"]["dropout"]
    values["fixed"] |= {"hidden_dims": [32], "num_orbits": 8, "epochs": 24, "evaluate_every": 6}
    values |= {"trials": 6, "scheduler": "none", "trainer": "packed", "lanes": 2, "max_concurrent": 4}


def test_a_packed_search_survives_what_a_solo_one_does(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """Pack actors die, then a Ctrl-C comes, then all clients die: every trial gives what it gives alone."""
    search = start_search("--space", write_space(packed), "--no-dashboard", folder=tmp_path)
    wait_for_file(search, tmp_path, "results/*/checkpoints/*/state.pt")
    (clients,) = workers(search, CLIENTS)
    assert "libtorch" not in Path(f"/proc/{clients}/maps").read_text()
    kill_workers(search, "PackActor")
    wait_for_file(search, tmp_path, "results/*/trials.csv")
    search.send_signal(signal.SIGINT)
    run = finish(search)
    assert run.returncode == 130, run.stdout + run.stderr
    assert run.stderr == ""
    assert "2 packs of up to 2" in run.stdout
    assert "goes on from its last checkpoint" not in run.stdout  # to Ray, nothing has happened to any trial
    search = start_search("--resume", only_results(tmp_path), "--no-dashboard", folder=tmp_path)
    while not workers(search, f"{CLIENTS}.train"):  # before, nothing is lost with them
        assert search.poll() is None
        time.sleep(0.1)
    kill_workers(search, CLIENTS)
    run = finish(search)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "goes on from its last checkpoint" in run.stdout

    space = load_space(only_results(tmp_path) / "space.yaml")
    trials = load_study(only_results(tmp_path)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    for trial, row in zip(trials, trials_table(tmp_path), strict=True):
        config = space.config(trial.user_attrs["parameters"], trial.user_attrs["seed"])
        reports = alone(config, references(config))
        value = Ranking(("work_gain",), 5e-3).value
        assert trial.intermediate_values == {report[EPOCH]: value(report[SCORES]) for report in reports}
        assert {key: float(row[key]) for key in reports[-1][SCORES]} == reports[-1][SCORES]


def test_32_packed_trials_score_what_they_score_alone(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """The same search with a process for each trial, some of which ASHA stops, and in packs, one of which dies."""

    def thirty_two(values: dict[str, Any], **changes: Any) -> None:
        values["fixed"] |= {"num_orbits": 4, "epochs": 6, "evaluate_every": 2}
        values["parameters"] |= {"feature_type": {"choice": ["basic", "rich"]}, "history_len": {"choice": [0, 2]}}
        values |= {"trials": 32, "sampler": {"name": "random"}, "seed": 3, **changes}

    curves = []
    for name, changes in {
        "solo": {"scheduler": {"name": "asha", "min_resource": 2}},
        "packs": {"scheduler": "none", "trainer": "packed", "lanes": 16, "max_concurrent": 32},
    }.items():
        space, folder = write_space(functools.partial(thirty_two, **changes)), tmp_path / name
        folder.mkdir()
        search = start_search("--space", space, "--no-dashboard", folder=folder)
        if name == "packs":
            wait_for_file(search, folder, "results/*/checkpoints/*/state.pt")
            os.kill(workers(search, "PackActor")[0], signal.SIGKILL)
        run = finish(search)
        assert run.returncode == 0, run.stdout + run.stderr
        curves.append([trial.intermediate_values for trial in load_study(only_results(folder)).trials])
    solo, packs = curves
    assert len(solo) == len(packs) == 32
    assert {len(curve) for curve in packs} == {3}
    assert min(len(curve) for curve in solo) < 3  # ASHA has stopped some
    for one, other in zip(solo, packs, strict=True):
        assert one == {epoch: other[epoch] for epoch in one}


def test_trials_that_fit_into_one_pack_share_an_actor_but_not_with_too_many() -> None:
    placement, small, large = Placement(2), settings(0), settings(0, hidden_dims=(24,))
    placed = [placement.place(str(n), small if n % 2 else large, among=8) for n in range(8)]
    assert placed == [0, 1] * 4
    assert placement.place("next", small, among=9) == 1
    placement = Placement(2)
    assert [placement.place(str(n), small, among=3) for n in range(3)] == [0, 0, 1]
    placement.forget("0")
    placement.forget("1")
    assert placement.place("4", small, among=3) == 1
    assert placement.place("5", small, among=3) == 0


def session(cpus: float, gpus: float) -> RaySession:
    return RaySession((Node(cpus, gpus),), None, Path())


def test_packs_fill_the_machine_and_leave_the_sampler_something_to_learn(tiny_space: Space) -> None:
    space = tiny_space.changed(trainer="packed", trials=100)
    fitted, concurrent, packs = fit_to_machine(space, session(2, 0))
    assert (fitted.lanes, concurrent, packs) == (13, 25, 2)
    assert fit_to_machine(space.changed(max_concurrent=64), session(2, 0))[1:] == (32, 2)
    assert fit_to_machine(space.changed(lanes=4), session(2, 0))[1:] == (8, 2)
    assert fit_to_machine(space, session(2, 0), lambda *_: 4)[1:] == (8, 2)
    assert fit_to_machine(space.changed(trials=4), session(16, 0))[1:] == (2, 2)
    fitted, concurrent, packs = fit_to_machine(space, session(16, 1))
    assert (fitted.lanes, concurrent, packs) == (7, 25, 4)


def test_lanes_without_packs_are_refused(write_space: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="The key `lanes` acts only with trainer packed"):
        load_space(write_space(lambda values: values.update(lanes=4)))
