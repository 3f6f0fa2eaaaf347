"""Ray's token: who has it may run code on the cluster, so only its owner may read it."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path


def token_file() -> Path | None:
    """The file that Ray reads its token from, or None if the token itself is in the environment."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def make_token() -> None:
    """Make Ray's token if there is none. Ray would do it too, but for all to read."""
    file = token_file()
    if file is None or os.environ.get("RAY_AUTH_TOKEN_PATH") or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent) as whole:  # readable by its owner alone
        whole.write(secrets.token_hex(32))
        whole.flush()
        with suppress(FileExistsError):  # another search was faster, and its token is as good
            os.link(whole.name, file)


def guard_token() -> None:
    """Make the token file of this user readable by its owner alone, where it is not."""
    file = token_file()
    if file is not None and file.exists() and file.stat().st_uid == os.getuid() and file.stat().st_mode & 0o077:
        with suppress(OSError):  # a read-only mount, as a container's secrets are
            file.chmod(0o600)
