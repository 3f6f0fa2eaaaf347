"""Which monitors watch a search."""

from collections.abc import Callable

from tune.folder import SearchFolder
from tune.monitoring.callback import Monitoring
from tune.monitoring.monitor import Monitor, give_up
from tune.monitoring.watching import Watching
from tune.study import SearchStudy


def watch(watching: Watching, study: SearchStudy, folder: SearchFolder) -> Monitoring:
    """Start the monitors. One that cannot start is left out, and says so."""
    monitors: list[Monitor] = []

    def start(name: str, make: Callable[[], Monitor]) -> None:
        try:
            monitors.append(make())
        except Exception as error:  # a library that does not load, a network
            give_up(name, error)

    # Each brings a library that is slow to import.
    def tensorboard() -> Monitor:
        from tune.monitoring.tensorboard import TensorBoard

        return TensorBoard(folder.path / "tensorboard", study.ranking.objectives)

    def metrics() -> Monitor:
        from tune.monitoring.metrics import Metrics
        from tune.monitoring.targets import Targets

        return Metrics(study, folder.path.name, Targets(folder.path.parent, folder.path.name))

    def wandb(project: str) -> Monitor:
        from tune.monitoring.wandb_log import WandbLog

        return WandbLog(project, folder.path.name, folder.path)

    start("tensorboard", tensorboard)
    if watching.metrics:
        start("metrics", metrics)
    if watching.wandb_project is not None:
        project = watching.wandb_project
        start("wandb", lambda: wandb(project))
    return Monitoring(study, monitors)
