"""TensorBoard's own reader gets back what was written."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tune.monitoring.monitor import Training
from tune.monitoring.tensorboard import TensorBoard

TRAINING = Training("trial-00003", 3, 0, {"lr": 1e-3, "feature_type": "basic", "hidden_dims": [64, 64]}, {})


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / TRAINING.name))
    events.Reload()
    return events


def scalars(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(tag)}


def test_scores_and_hyperparameters_are_read_back_while_a_training_runs(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, ["work_gain"])
    board.started(TRAINING)
    board.reported(TRAINING, 5, {})
    board.reported(TRAINING, 10, {"work_gain": 1.25, "rel_dE": 1e-3})
    board.reported(TRAINING, 20, {"work_gain": 1.5, "rel_dE": float("nan")})
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {"work_gain", "rel_dE"}
    assert scalars(events, "work_gain") == {10: 1.25, 20: 1.5}
    assert scalars(events, "rel_dE")[10] == pytest.approx(1e-3)
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    chosen = plugin_data_pb2.HParamsPluginData.FromString(start).session_start_info.hparams
    assert chosen["lr"].number_value == 1e-3
    assert (chosen["feature_type"].string_value, chosen["hidden_dims"].string_value) == ("basic", "[64, 64]")
    experiment = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    (metric,) = plugin_data_pb2.HParamsPluginData.FromString(experiment).experiment.metric_infos
    assert metric.name.tag == "work_gain"


def test_a_training_that_goes_on_adds_to_its_folder_also_after_a_torn_record(
    tmp_path: Path,
) -> None:
    first = TensorBoard(tmp_path, ["work_gain"])
    first.started(TRAINING)
    first.reported(TRAINING, 10, {"work_gain": 1.25})
    first.reported(TRAINING, 20, {"work_gain": 1.5})
    first.close()
    (torn,) = (tmp_path / TRAINING.name).iterdir()
    torn.write_bytes(torn.read_bytes()[:-10])  # as a power cut leaves it
    # A file is called after the second of its beginning.
    torn = torn.rename(torn.with_name("events.out.tfevents.1000000000.host"))
    second = TensorBoard(tmp_path, ["work_gain"])
    second.started(TRAINING)
    second.reported(TRAINING, 20, {"work_gain": 1.5})
    second.ended(TRAINING, "COMPLETE", 30, "", {"work_gain": 1.4})
    assert len(list((tmp_path / TRAINING.name).iterdir())) == 2
    assert scalars(read(tmp_path), "work_gain") == {10: 1.25, 20: 1.5}
    assert scalars(read(tmp_path), "test/work_gain") == {30: pytest.approx(1.4)}
