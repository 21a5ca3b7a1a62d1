"""Whether Weights & Biases can be reached from here: by its variables, an API key, and a server that answers."""

from __future__ import annotations

import netrc
import os
import socket
import warnings
from typing import Literal
from urllib.parse import urlsplit

from records.errors import UserError
from records.notices import RunWarning

CONNECT_SECONDS = 3.0
DEFAULT_SERVER = "https://api.wandb.ai"

Mode = Literal["online", "offline", "disabled"]

# W&B's own names; "dryrun" and "run" are those of its early releases.
_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


def choose_mode(offline: bool | Literal["auto"]) -> Mode:
    """Choose how W&B runs; `auto` warns with the reason when it chooses `offline` on its own.

    Raises:
        UserError: WANDB_MODE is none of its choices.
    """
    wished = wished_mode(offline)
    if wished is not None:
        return wished
    reason = obstacle()
    if reason is None:
        return "online"
    text = f"logger=wandb writes to disk only: {reason}. Send the run later with `wandb sync`."
    warnings.warn(text, RunWarning, stacklevel=2)
    return "offline"


def wished_mode(offline: bool | Literal["auto"]) -> Mode | None:
    """Return what was asked for, by `offline` or where that is `auto` by WANDB_MODE; None where nothing was.

    Raises:
        UserError: either is none of its choices.
    """
    if offline not in (True, False, "auto"):
        raise UserError(f"logger.wandb.offline={offline!r}; choices: true, false, auto.")
    if offline != "auto":
        return "offline" if offline else "online"
    wanted = os.environ.get("WANDB_MODE", "").lower()
    if wanted and wanted not in _MODES:
        raise UserError(f"WANDB_MODE={wanted!r} in the environment; choices: {', '.join(_MODES)}.")
    return _MODES[wanted] if wanted else None


def obstacle() -> str | None:
    """Name what stands in the way of sending to W&B's server, WANDB_BASE_URL; None when nothing does.

    Only with an API key is the server asked for a connection.
    """
    server = os.environ.get("WANDB_BASE_URL", DEFAULT_SERVER)
    host = urlsplit(server).hostname or server
    if not _has_key(host):
        return f"there is no API key for {host} (`wandb login` stores one)"
    try:
        port = urlsplit(server).port or (80 if server.startswith("http://") else 443)
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return f"{host} cannot be reached ({error})"
    return None


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
