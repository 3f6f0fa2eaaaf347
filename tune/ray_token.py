"""Ray's token: who has it may run code on the cluster, so only its owner may read it."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from core.errors import UserError


def token_file() -> Path | None:
    """The file that Ray reads its token from, or None if the token itself is in the environment."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def make_token() -> None:
    """Make Ray's token if there is none. Ray would do it too, but for all to read. Raises UserError."""
    file = token_file()
    if file is None:
        return
    try:
        if not os.environ.get("RAY_AUTH_TOKEN_PATH") and not file.exists():
            _write(file)
        file.read_bytes()  # Ray would end in a traceback where it cannot
    except OSError as error:
        raise UserError(
            f"{file}: Ray's token cannot be kept there ({error.strerror}), but must be a file in a folder that can be "
            "written; mend that, set HOME to another folder, or give a token in RAY_AUTH_TOKEN."
        ) from None


def _write(file: Path) -> None:
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
