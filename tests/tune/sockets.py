"""Who listens where, as Linux knows it, and what a port answers to a stranger."""

import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import grpc

_LISTENING = "0A"


def family(pid: int) -> dict[int, str]:
    """A process and all below it: the command line of each."""
    table = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in table.splitlines()]
    found = {pid}
    while more := {int(row[0]) for row in rows if int(row[1]) in found} - found:
        found |= more
    return {int(row[0]): row[2] for row in rows if int(row[0]) in found}


def listening(pids: Iterable[int]) -> dict[int, tuple[str, int]]:
    """The TCP ports that processes listen on: port to address and process."""
    owners = {}
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(FileNotFoundError):  # closed since
                if match := re.match(r"socket:\[(\d+)\]", str(entry.readlink())):
                    owners[match[1]] = pid
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENING and rest[5] in owners:
                address, port = local.split(":")
                ports[int(port, 16)] = (_address(address), owners[rest[5]])
    return ports


def _address(words: str) -> str:
    """Four bytes of the kernel's table are one number of this machine's byte order."""
    packed = b"".join(int(words[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(words), 8))
    address = ip_address(packed)
    return str(address.ipv4_mapped or address) if isinstance(address, IPv6Address) else str(address)


def http_status(port: int, path: str, token: str = "") -> int | None:
    """The status of a request, or None if the port does not speak HTTP/1."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
    except Exception as error:
        if type(error).__name__ == "BadStatusLine":  # HTTP/2, which gRPC speaks
            return None
        raise


def grpc_answers(port: int, methods: Iterable[str], token: str = "") -> dict[str, list[str]]:
    """The methods of a port by the status of a call with an empty request."""
    answers: dict[str, list[str]] = {}
    metadata: Any = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in methods:
            try:
                channel.unary_unary(method)(b"", timeout=20, metadata=metadata)
            except grpc.RpcError as error:
                answers.setdefault(error.code().name, []).append(method)
            else:
                answers.setdefault("OK", []).append(method)
    return answers
