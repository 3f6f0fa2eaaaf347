"""Joining a Ray cluster that is running, or saying in a sentence why it cannot be joined."""

import logging
import os
from pathlib import Path
from typing import Any

import core
import tune
from core.errors import UserError
from tune.ray_token import guard_token, token_file

#: Seconds that a cluster has to answer.
_PATIENCE = 10
#: A question that every Ray answers, of whatever version: which of these nodes are alive? (None is asked about.)
_QUESTION = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def check_address(address: str) -> None:
    """Raise UserError if `--address` is none that a search can run at."""
    target = _from_environment(address)
    host, _, port = target.rpartition(":")
    if "://" in target:
        raise UserError(
            f"The value of `--address` is {target}, but must be `auto` or host:port: Ray Tune does not run through a "
            "Ray client; start the search on a node of the cluster."
        )
    if target != "auto" and not (host and port.isdecimal()):
        raise UserError(f"The value of `--address` is {target}, but must be `auto` or host:port.")


def join(address: str, verbose: bool) -> Any:
    """Connect to a cluster and return Ray's context.

    The code travels along: the nodes need its libraries, but not this project. Raises UserError if the cluster cannot
    be joined, or is open to everyone although this search asks for a token.
    """
    import ray

    guarded = os.environ["RAY_AUTH_MODE"] == "token"
    if guarded:
        guard_token()
        file = token_file()
        if file is not None and not (file.is_file() and file.stat().st_size):
            raise UserError(f"There is no token for the cluster at {address} in {file}; put the cluster's own there.")
    try:
        target = _target(address)
        _check_token(address, target, guarded)
        return ray.init(
            address=target,
            runtime_env={"py_modules": [str(Path(package.__file__ or "").parent) for package in (core, tune)]},
            logging_level=logging.INFO if verbose else logging.CRITICAL,
            log_to_driver=verbose,
        )
    except UserError:
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"The value of `--address` is {address}, but must be that of a running Ray cluster with a node on this "
            f"machine ({reason})."
        ) from None


def _from_environment(address: str) -> str:
    return os.environ.get("RAY_ADDRESS") or address if address == "auto" else address


def _target(address: str) -> str:
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address(_from_environment(address)) or address


def _check_token(address: str, target: str, guarded: bool) -> None:
    """Ask before Ray does: it would ask for two minutes, print each failure, and then end the program."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    with init_grpc_channel(target) as channel:
        answer = _ask(channel)
    if answer is grpc.StatusCode.UNAUTHENTICATED:
        ours = f"the token in {token_file() or 'RAY_AUTH_TOKEN'}" if guarded else "a search with RAY_AUTH_MODE=disabled"
        raise UserError(f"The cluster at {address} refuses {ours}; give it the cluster's own (RAY_AUTH_TOKEN_PATH).")
    if answer is not grpc.StatusCode.OK:
        raise ConnectionError("no Ray answers there")
    with grpc.insecure_channel(target) as channel:
        if guarded and _ask(channel) is grpc.StatusCode.OK:
            raise UserError(
                f"The cluster at {address} takes requests without a token: whoever reaches it can run code there. "
                "Start its nodes with RAY_AUTH_MODE=token, or set RAY_AUTH_MODE=disabled here too if its network is "
                "closed."
            )


def _ask(channel: Any) -> Any:
    import grpc

    try:
        channel.unary_unary(_QUESTION)(b"", timeout=_PATIENCE)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK
