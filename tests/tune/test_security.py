"""What a running search is open to: nothing but its dashboard's static page, and that on this machine only."""

import re
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.core.generated

from core.errors import UserError
from tests.tune.searches import finish, own_home, start_search, wait_for_file
from tests.tune.sockets import family, grpc_answers, http_status, listening
from tune.ray_token import make_token

#: With the token, most calls with an empty request would do something, or end a process.
HARMLESS = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def train_for_long(values: dict[str, Any]) -> None:
    values["fixed"].update(epochs=100_000)


@pytest.fixture(scope="module")
def methods() -> list[str]:
    """Every gRPC method that Ray's own stubs know, and those of the object manager, which has none in Python."""
    (folder,) = ray.core.generated.__path__
    stubs = "".join(file.read_text() for file in Path(folder).glob("*_pb2_grpc.py"))
    found = sorted(set(re.findall(r"'(/ray\.rpc\.[\w./]+)'", stubs)))
    assert len(found) > 100
    return [*found, "/ray.rpc.ObjectManagerService/Push", "/ray.rpc.ObjectManagerService/Pull"]


def test_a_stranger_gets_nothing_from_a_running_search(
    tmp_path: Path, write_space: Callable[..., Path], methods: list[str]
) -> None:
    home, temporary = tmp_path / "home", Path(tempfile.mkdtemp(dir="/tmp"))  # a short name: Ray's sockets lie below it
    search = start_search(
        *("--space", write_space(train_for_long), "--max-concurrent", 1),
        folder=tmp_path,
        TMPDIR=str(temporary),
        **own_home(home),
    )
    try:
        wait_for_file(search, tmp_path, "results/*/checkpoints/*/model.pt")
        processes = family(search.pid)
        ports = listening(processes)
        token = (home / ".ray" / "auth_token").read_text()
        asked_with_token: dict[str, list[str]] = {}
        for port, (address, pid) in ports.items():
            assert address == "127.0.0.1", processes[pid]
            if http_status(port, "/") is not None:
                pages = {path: http_status(port, path) for path in ("/", "/metrics", "/api/version", "/api/jobs/")}
                expected = dict.fromkeys(pages, 401)
                if "dashboard.py" in processes[pid]:
                    assert http_status(port, "/api/version", token) == 200
                    expected["/"] = 200
                assert pages == expected, processes[pid]
            else:
                answers = grpc_answers(port, methods)
                assert answers.keys() == {"UNAUTHENTICATED", "UNIMPLEMENTED"}, processes[pid]
                if HARMLESS in answers["UNAUTHENTICATED"]:  # it was the token that was missing
                    asked_with_token |= grpc_answers(port, [HARMLESS], token)
        assert asked_with_token == {"OK": [HARMLESS]}
        programs = " ".join(processes[pid] for _, pid in ports.values())
        for program in ("gcs_server", "raylet/raylet", "dashboard.py", "Agent", "TimeStepTraining", "tune.search"):
            assert program in programs
        assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
        folders = list(temporary.iterdir())  # Ray's local sockets and its files are below
        assert not [folder for folder in folders if folder.stat().st_mode & 0o077]
        assert [folder for folder in folders if list(folder.rglob("plasma_store"))]
    finally:
        search.send_signal(signal.SIGUSR1)
        ended = finish(search)
    assert ended.returncode == 130, ended.stderr
    assert not list(temporary.iterdir())
    temporary.rmdir()


@pytest.mark.parametrize(
    ("home", "reason"), [("/proc/x", "No such file"), ("", "Is a directory"), ("file", "Not a directory")]
)
def test_a_token_that_cannot_be_kept_is_one_line(
    home: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ray" / "auth_token").mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=f"auth_token: Ray's token cannot be kept there .{reason}.*set HOME") as refusal:
        make_token()
    assert "\n" not in str(refusal.value)
