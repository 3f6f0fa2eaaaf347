"""A Ray cluster of several nodes on this machine, in a process of its own, as if an administrator had started it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = """
import sys
from tune.ray_token import make_token
make_token()
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes = [cluster.head_node, *(cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[1]) - 1))]
print(cluster.address, flush=True)
for line in sys.stdin:
    command, argument = line.split()
    if command == "kill":
        cluster.remove_node(nodes[int(argument)], allow_graceful=False)
        print("killed", flush=True)
    else:
        actors = cluster.global_state.actor_table(None).values()
        found = {actor["Address"]["NodeID"] for actor in actors if actor["ActorClassName"] == argument}
        print(*(index for index, node in enumerate(nodes) if node.node_id in found), flush=True)
for node in reversed(nodes):
    node.kill_all_processes(check_alive=False, allow_graceful=False)
"""


class RunningCluster:
    """A cluster that runs."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self._process = process
        self.address = address

    def kill_node(self, index: int) -> None:
        """Kill all processes of a node; 0 is the head."""
        assert self._ask(f"kill {index}") == "killed"

    def nodes_with(self, actor_class: str) -> set[int]:
        """The nodes on which actors of a class are or have been."""
        return {int(index) for index in self._ask(f"nodes {actor_class}").split()}

    def _ask(self, question: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        print(question, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()


@contextmanager
def running_cluster(nodes: int, home: Path, **environment: str) -> Iterator[RunningCluster]:
    """Start a cluster of nodes with one CPU each; its token is in the home that is given."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(nodes)],
        env={**os.environ, "RAY_AUTH_MODE": "token", "HOME": str(home), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield RunningCluster(process, address)
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
