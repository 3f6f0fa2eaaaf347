"""Every key of the runner: core's settings and its own, and which mode acts on which."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from core.config import Config


class RunnerKeys(BaseModel):
    """The runner's own keys, beside those of :class:`core.config.Config`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ic_path: str | None = Field(
        None, description="initial conditions: .npy or .txt, rows of m, x.., v.., or .npy of (M, N, columns)"
    )
    use_train_ic: bool = Field(False, description="simulate the systems that the model was trained on")
    multi_orbit_sim: bool = Field(False, description="simulate num_orbits systems in one batch, else one")
    wandb: bool = Field(False, description="log a training to Weights & Biases")
    wandb_project: str = Field("AITimeStepper", min_length=1, description="its project")
    wandb_name: str | None = Field(None, min_length=1, description="the run's name, else save_name, else runner_train")
    # Flags only: they name files of one run, or how it is done.
    config: str | None = Field(None, description="TOML file of keys, with [train] and [simulate] sections")
    resume: str | None = Field(None, description="state.pt of a training that is to go on, bit for bit")
    guard: bool = Field(False, description="redo a step whose rel_dE exceeds energy_threshold with half the dt")
    save_trajectory: str | None = Field(None, description="write the trajectory to this .npz file")
    plot: str | None = Field(None, description="write tracks and errors to this .png file")
    train_ic_path: str | None = Field(None, description="both: --ic-path of the training")
    sim_ic_path: str | None = Field(None, description="both: --ic-path of the simulation")


#: Runner keys that a TOML file may not hold.
FLAG_ONLY = frozenset("config resume guard save_trajectory plot train_ic_path sim_ic_path".split())
#: Every key that a flag is made of, with its field.
FIELDS: dict[str, FieldInfo] = {**RunnerKeys.model_fields, **Config.model_fields}

#: Keys of a network and its inputs: a training makes it by them, a simulation takes them from the checkpoint.
NETWORK_KEYS = frozenset(
    "hidden_dims activation dt_bound dt_scale fourier_scale fourier_dim normalize_inputs history_len feature_type "
    "history_warmup".split()
)
#: All keys in which a simulation and its model must agree.
MODEL_KEYS = NETWORK_KEYS | frozenset("n_steps step_rule num_particles dim softening dtype eps".split())
#: Keys that both modes act on.
SHARED_KEYS = MODEL_KEYS | frozenset(
    "mass pos_scale vel_scale external_field_mass external_field_position num_orbits e_min e_max a_min a_max "
    "energy_threshold seed device tf32 duration save_name movie movie_dir movie_max_frames movie_fps movie_dpi "
    "ic_path config plot".split()
)
SIMULATE_KEYS = frozenset(
    "integrator_mode dt steps Nperiod model_path use_train_ic multi_orbit_sim guard save_trajectory".split()
)
#: Flags of `both` that give one of its halves a value of its own.
HALVES = {"train": {"train_ic_path": "ic_path"}, "simulate": {"sim_ic_path": "ic_path"}}
HALF_FLAGS = {key: mode for mode, half in HALVES.items() for key in half}
TRAIN_KEYS = frozenset(FIELDS) - SHARED_KEYS - SIMULATE_KEYS - frozenset(HALF_FLAGS)
#: What each mode acts on.
ACTS_ON = {"train": TRAIN_KEYS | SHARED_KEYS, "simulate": SIMULATE_KEYS | SHARED_KEYS}
