"""How many lanes fill the hardware is measured: whatever comes out, it must be a pack that can be made."""

from core.lane import Phase
from core.pack_size import replaying, saturating_lanes
from tests.trainings import small


def test_a_measurement_says_how_many_lanes_are_worth_having():
    assert saturating_lanes(small(replay_batch_size=8), most=1) == 1
    assert saturating_lanes(small(replay_batch_size=8), most=6) in (1, 4, 6)
    assert saturating_lanes(small(optimizer="lbfgs"), most=6) == 1
    assert saturating_lanes(small(lr=1e300, energy_threshold=1e-14), most=6) == 1  # it fails before it has any samples


def test_what_is_measured_are_full_minibatches():
    trainer = replaying([small(seed=seed, replay_batch_size=24, replay_capacity=16 * seed) for seed in (1, 2)])
    first, second = (trainer.buffer.count(lane) for lane in range(2))
    assert first == 16
    assert second >= 24
    for _ in range(150):  # longer than phase 2 lasts where the loss stalls
        trainer.tick()
    assert [lane.record.replay_updates for lane in trainer.lanes] == [150, 150]
    assert {lane.phase for lane in trainer.lanes} == {Phase.REPLAY}
