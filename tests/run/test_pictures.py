"""Stills and movies: that they exist, show something, have the frames that were asked for, and leave no halves."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from core.config import Config
from core.errors import UserError
from core.forces import Forces
from core.orbits import draw
from core.simulation import simulate
from core.timestep import Dynamical
from run import curves
from run.curves import Curves
from run.pictures import find_ffmpeg, movie, still
from run.trajectory import Trajectory, TrajectoryWriter, read_trajectories
from tests.kepler import relative_orbit
from tests.systems import GRAVITY, kepler_system

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="MP4s need ffmpeg (Debian: apt-get install ffmpeg)"
)
DPI = 50  # 640 x 360


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trajectories by number of orbits, bodies and dimensions."""
    made = {}
    for count, bodies, dim in [(1, 2, 2), (1, 3, 3), (8, 2, 2), (3, 3, 3), (12, 2, 2), (1, 20, 3)]:
        config = Config(num_particles=bodies, dim=dim, device="cpu", softening=0.05, mass=(1.0, *[0.3] * (bodies - 1)))
        state, period = draw(config, count, torch.Generator().manual_seed(4))
        path = tmp_path_factory.mktemp("runs") / "run.npz"
        with TrajectoryWriter(path, state) as writer:
            simulate(state, Dynamical(0.1), Forces(0.05), period, steps=150, observer=writer, fail_above=torch.inf)
        made[count, bodies, dim] = read_trajectories(path)
    return made


def pixels(image: Image.Image | Path) -> np.ndarray:
    image = Image.open(image) if isinstance(image, Path) else image
    return np.asarray(image.convert("RGB")).astype(int)


def ink(part: np.ndarray) -> float:
    """Share of pixels that are not nearly white."""
    return float((part.min(-1) < 200).mean())


def check_picture(picture: np.ndarray) -> None:
    """On white, with something in the tracks and in each of the three panels."""
    height, width = picture.shape[:2]
    assert np.median(picture) == 255
    assert ink(picture[:, : int(0.6 * width)]) > 0.003
    for top in (0.1, 0.38, 0.66):
        panel = picture[int(top * height) : int((top + 0.25) * height), int(0.65 * width) : int(0.97 * width)]
        assert ink(panel) > 0.005


# Stills --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [(1, 2, 2), (1, 3, 3), (8, 2, 2), (3, 3, 3), (12, 2, 2), (1, 20, 3)])
def test_a_still_shows_tracks_and_panels(runs, tmp_path, kind):
    still(runs[kind], tmp_path / "new" / "run.png", title="a run", dpi=DPI)
    picture = pixels(tmp_path / "new" / "run.png")
    assert picture.shape == (360, 640, 3)
    check_picture(picture)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["run.png"]


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_a_still_may_be_a_drawing(runs, tmp_path, suffix):
    still(runs[1, 2, 2], tmp_path / f"run.{suffix}")
    assert (tmp_path / f"run.{suffix}").stat().st_size > 10_000


@pytest.mark.parametrize(("name", "said"), [("run.xyz", "must end in .png"), ("file/run.png", "cannot be written")])
def test_a_still_that_cannot_be_written_is_one_line(runs, tmp_path, name, said):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=said) as caught:
        still(runs[1, 2, 2], tmp_path / name)
    assert "\n" not in str(caught.value)


def test_warm_up_steps_are_marked(runs, tmp_path):
    orbits = runs[1, 2, 2]
    warm = np.arange(len(orbits[0].time)) % 40 < 10
    for name, mask in (("plain", None), ("marked", [warm])):
        still(orbits, tmp_path / f"{name}.png", dpi=DPI, warmup=mask)
    plain, marked = pixels(tmp_path / "plain.png"), pixels(tmp_path / "marked.png")
    assert (np.abs(plain - marked).sum(-1) > 100).mean() > 0.0005


def test_short_and_broken_orbits_are_drawn(tmp_path):
    """One that never moved, and one that ended in a NaN."""
    state, _ = kepler_system(0.5)
    position, velocity, mass = (tensor.numpy() for tensor in (state.position, state.velocity, state.mass))
    unmoved = Trajectory(np.zeros(1), np.zeros(1), position[None], velocity[None], mass, np.zeros(1), -np.ones(1))
    lost = Trajectory(
        np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.stack([position, position * np.nan]),
        np.stack([velocity, velocity]), mass, np.array([0, 1]), np.array([-1.0, np.nan]),
    )  # fmt: skip
    still([unmoved, lost], tmp_path / "run.png", dpi=DPI)
    assert movie([lost], tmp_path / "run", ffmpeg=None, dpi=DPI).stat().st_size > 1000


# Movies --------------------------------------------------------------------------------------------


def probed(path: Path) -> dict[str, str]:
    entries = "stream=codec_name,pix_fmt,width,height,r_frame_rate,nb_read_frames"
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", entries, "-of", "json", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)["streams"][0]


@needs_ffmpeg
@pytest.mark.parametrize("kind", [(1, 2, 2), (3, 3, 3)])
def test_a_movie_is_an_mp4_with_the_frames_asked_for(runs, tmp_path, kind):
    stem = tmp_path / "movies" / "nbody_movie_v1.5_train"
    path = movie(runs[kind], stem, ffmpeg=find_ffmpeg(), max_frames=23, fps=12, dpi=DPI)
    assert path == tmp_path / "movies" / "nbody_movie_v1.5_train.mp4"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert probed(path) == {
        "codec_name": "h264", "pix_fmt": "yuv420p", "width": 640, "height": 360, "r_frame_rate": "12/1",
        "nb_read_frames": "23",
    }  # fmt: skip
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-vsync", "0", str(tmp_path / "%02d.png")]
    subprocess.run(command, check=True)
    first, last = pixels(tmp_path / "01.png"), pixels(tmp_path / "23.png")
    check_picture(last)
    assert (np.abs(first - last).sum(-1) > 60).mean() > 0.003


@needs_ffmpeg
def test_an_odd_number_of_pixels_is_no_obstacle(runs, tmp_path):
    path = movie(runs[1, 2, 2], tmp_path / "run", ffmpeg=find_ffmpeg(), max_frames=2, dpi=47)
    assert (probed(path)["width"], probed(path)["height"]) == (600, 338)


@pytest.mark.parametrize("kind", [(1, 2, 2), (8, 2, 2)])
def test_without_ffmpeg_a_movie_is_a_gif(runs, tmp_path, kind, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = movie(runs[kind], tmp_path / "movies" / "run", ffmpeg=find_ffmpeg(), max_frames=15, fps=20, dpi=DPI)
    assert path == tmp_path / "movies" / "run.gif"
    with Image.open(path) as image:
        assert image.size == (640, 360)
        assert image.n_frames == 15
        assert image.info["duration"] == 50
        assert image.info["loop"] == 0
        frames = [pixels(frame.copy()) for frame in ImageSequence.Iterator(image)]
    check_picture(frames[-1])
    changes = [(np.abs(one - other).sum(-1) > 60).mean() for one, other in itertools.pairwise(frames)]
    assert min(changes) > 0.0002
    assert [file.name for file in path.parent.iterdir()] == ["run.gif"]


def test_a_gif_shows_what_is_drawn(runs, tmp_path):
    """Its frames are pieces with one palette; put together they must be the last picture of the run."""
    path = movie(runs[1, 2, 2], tmp_path / "run", ffmpeg=None, max_frames=8, dpi=DPI)
    still(runs[1, 2, 2], tmp_path / "run.png", dpi=DPI)
    with Image.open(path) as image:
        image.seek(7)
        last = pixels(image)[:, : 640 * 3 // 5]
    drawn = pixels(tmp_path / "run.png")[:, : 640 * 3 // 5]
    assert (np.abs(last - drawn).max(-1) > 60).mean() < 0.01  # but for the tail and fainter tracks


def test_a_movie_has_no_more_frames_than_the_run_has_rows(runs, tmp_path):
    short = [Trajectory(*(part[:5] if name != "mass" else part for name, part in runs[1, 2, 2][0]._asdict().items()))]
    with Image.open(movie(short, tmp_path / "run", ffmpeg=None, dpi=DPI)) as image:
        assert image.n_frames == 5


@pytest.mark.parametrize(("program", "said"), [("echo no codec >&2; exit 1", "no codec"), ("exit 1", "said nothing")])
def test_an_ffmpeg_that_fails_is_one_line_and_leaves_nothing(runs, tmp_path, program, said):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\n{program}\n")
    ffmpeg.chmod(0o755)
    with pytest.raises(UserError, match=f"ffmpeg failed: .*{said}") as caught:
        movie(runs[1, 2, 2], tmp_path / "run", ffmpeg=str(ffmpeg), max_frames=10, dpi=DPI)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["ffmpeg"]


def test_a_movie_that_breaks_off_leaves_nothing(runs, tmp_path, monkeypatch):
    def breaks_off(self, number):
        if number > 3:
            raise KeyboardInterrupt
        return np.zeros((36, 64, 4), np.uint8)

    monkeypatch.setattr("run.pictures._Film.frame", breaks_off)
    for ffmpeg in {None, find_ffmpeg()}:
        with pytest.raises(KeyboardInterrupt):
            movie(runs[1, 2, 2], tmp_path / "run", ffmpeg=ffmpeg, dpi=DPI)
    assert list(tmp_path.iterdir()) == []


# Curves --------------------------------------------------------------------------------------------


def kepler_run(tmp_path, steps: int, eps: float) -> Trajectory:
    state, period = kepler_system(0.8)
    state = state.map(lambda tensor: tensor.unsqueeze(0))
    with TrajectoryWriter(tmp_path / "run.npz", state) as writer:
        simulate(state, Dynamical(eps), GRAVITY, torch.tensor([period]), steps=steps, observer=writer)
    return read_trajectories(tmp_path / "run.npz")[0]


def test_positions_between_rows_follow_the_orbit(tmp_path):
    """Frames are uniform in time, steps are not: in between the orbit is curved, not a chain of straight lines."""
    orbit = kepler_run(tmp_path, 220, 0.03)
    times = np.linspace(0, float(orbit.time[-1]), 97)
    found = Curves(orbit).at(times)
    for time, position in zip(times, found, strict=True):
        expected, _ = relative_orbit(time, 1.0, 0.8, 2.0)
        assert np.linalg.norm(position[1] - position[0] - expected) < 5e-3
    assert np.array_equal(Curves(orbit).at(np.array([1e9]))[0], orbit.position[-1])


def test_a_long_run_is_thinned_but_keeps_its_peaks(tmp_path, monkeypatch):
    orbit = kepler_run(tmp_path, 3000, 0.03)
    whole = Curves(orbit)
    monkeypatch.setattr(curves, "MOST_ROWS", 100)
    thinned = Curves(orbit)
    assert len(thinned.time) == 100
    assert thinned.time[-1] == whole.time[-1]
    assert np.nanmax(thinned.energy_error) == np.nanmax(whole.energy_error)


def test_errors_are_those_of_the_run(tmp_path):
    orbit = kepler_run(tmp_path, 200, 0.1)
    drawn = Curves(orbit)
    assert np.array_equal(drawn.energy_error, np.abs(orbit.energy - orbit.energy[0]) / abs(orbit.energy[0]))
    momentum = (orbit.mass[:, None] * orbit.velocity).sum(1)
    scale = (orbit.mass * np.linalg.norm(orbit.velocity, axis=-1)).sum(-1)
    expected = np.linalg.norm(momentum - momentum[0], axis=-1) / np.maximum(scale, scale[0])
    np.testing.assert_allclose(drawn.momentum_error, expected, rtol=1e-12)


def test_a_fresh_start_breaks_the_track_and_begins_errors_anew(tmp_path):
    """What a training's orbit does: a row of NaN parts it from the one that started afresh."""
    orbit = kepler_run(tmp_path, 100, 0.1)
    nothing = np.full((1, 2, 2), np.nan)
    twice = Trajectory(
        np.concatenate([orbit.time, orbit.time[-1:], orbit.time[-1] + orbit.time]),
        np.concatenate([orbit.dt, [0.0], orbit.dt]),
        np.concatenate([orbit.position, nothing, 2 * orbit.position]),
        np.concatenate([orbit.velocity, nothing, orbit.velocity / 3]),
        orbit.mass,
        np.arange(203),
        np.concatenate([orbit.energy, [np.nan], 5 * orbit.energy]),
    )
    once, drawn = Curves(orbit), Curves(twice)
    np.testing.assert_allclose(drawn.energy_error[:101], once.energy_error, rtol=1e-12)
    np.testing.assert_allclose(drawn.energy_error[102:], once.energy_error, rtol=1e-12)
    assert np.isnan(drawn.track).any()
    jump = np.linalg.norm(np.diff(drawn.track, axis=0), axis=-1)
    assert np.nanmax(jump) < 0.3
    assert np.array_equal(drawn.at(orbit.time[-1:]), 2 * orbit.position[:1])
