"""The SLURM script, run by a stand-in for SLURM on this machine: srun starts its command here, scontrol only notes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tests.tune.conftest import load_values
from tests.tune.searches import load_study, own_home
from tests.tune.sockets import family

SCRIPT = Path("deploy/slurm/search.sbatch").absolute()

SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> scontrol.log
"""


def test_the_script_is_sound() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, SCRIPT], check=True)


def test_a_job_ends_before_its_limit_is_requeued_and_finishes(tmp_path: Path) -> None:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    path = f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    (tmp_path / ".venv" / "bin" / "activate").write_text(f"export PATH={path}\n")
    values = load_values()
    values["fixed"].update(epochs=12)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    job = random.randrange(10**6)
    environment = {
        **os.environ,
        **own_home(tmp_path / "home"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_ON_NODE": "2",
    }
    # Ray's symmetric-run ends with `ray stop`, which would stop every Ray that it sees: so it sees no others.
    command = ["unshare", "-Urpf", "--mount-proc", "--kill-child", "bash", SCRIPT, "--space", "tiny.yaml"]
    results = tmp_path / "results" / f"slurm-{job}"

    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        while not list(results.glob("*/checkpoints/*/state.pt")):
            assert first.poll() is None, (tmp_path / "first.log").read_text()
            time.sleep(0.1)
        assert (results / ".token").stat().st_mode & 0o777 == 0o600
        assert list(results.glob(".storage/*/search"))
        (script,) = (pid for pid, run in family(first.pid).items() if run.startswith(f"bash {SCRIPT}"))
        os.kill(script, signal.SIGUSR1)
        assert first.wait(timeout=120) == 130, (tmp_path / "first.log").read_text()
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job}\n"

    second = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    (search,) = results.glob("tiny-*")
    trials = load_study(search).trials
    assert len(trials) == 6
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert (search / "best" / "model.pt").exists()
    assert sorted(entry.name for entry in results.iterdir()) == [".storage", search.name]
    assert not list((results / ".storage").iterdir())
    assert not Path(f"/tmp/aitimestepper-{job}").exists()
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job}\n"
