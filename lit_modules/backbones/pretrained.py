"""Whether a network starts from published weights, decided within seconds and written down.

The cache is looked into first. Only if the file is not there the server is asked, once and with a deadline, before any
hub client is called: without network the client's own retries last about 50 s.
"""

from __future__ import annotations

import os
import ssl
import threading
import urllib.error
import urllib.request
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlparse

import torch
from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from records.errors import UserError
from records.notices import RunWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

Requested = bool | Literal["auto"]

# `auto` must decide within 5 s; whoever demands weights waits longer for a slow line.
AUTO_DEADLINE_S = 4.0
REQUIRED_DEADLINE_S = 20.0


@dataclass(frozen=True)
class PretrainedRecord:
    """What was asked for (true, false or auto), whether weights are in use, and where they came from."""

    requested: Requested
    used: bool
    source: str


class PublishedWeights(Protocol):
    """A weight file that lies on a server, and the folder of this machine where its copy is kept."""

    @property
    def label(self) -> str:
        """Name of the weights and their server, for messages and records."""

    @property
    def cache_folder(self) -> Path:
        """Folder in which a downloaded copy lies."""

    def cached(self) -> Path | None:
        """Return the copy of this machine, None where there is none; asks no server."""

    def why_unreachable(self, seconds: float) -> str | None:
        """Return why the server cannot be asked now, None if it answers; takes no longer than `seconds`."""

    def download(self) -> Path:
        """Fetch the file into the cache; raises what the client raises."""


@dataclass(frozen=True)
class HubWeights:
    """A file of a Hugging Face Hub repository, under one of `filenames`, the preferred one first."""

    repository: str
    filenames: tuple[str, ...]
    revision: str | None = None

    @property
    def label(self) -> str:
        """Repository, first file name and server."""
        return f"{self.repository} ({self.filenames[0]}) on {hub_endpoint()}"

    @property
    def cache_folder(self) -> Path:
        """Folder of the hub's cache."""
        return Path(constants.HF_HUB_CACHE)

    def cached(self) -> Path | None:
        """Return the first of the files that the hub's cache holds."""
        for filename in self.filenames:
            found = try_to_load_from_cache(
                self.repository, filename, cache_dir=self.cache_folder, revision=self.revision
            )
            if isinstance(found, str):
                return Path(found)
        return None

    def why_unreachable(self, seconds: float) -> str | None:
        """Return why the hub cannot be asked now: switched off, or no answer."""
        if switch := _offline_switch():
            return f"{switch} is set"
        url = hf_hub_url(self.repository, self.filenames[0], revision=self.revision, endpoint=hub_endpoint())
        return why_unreachable(url, seconds)

    def download(self) -> Path:
        """Fetch the first of the files that the repository holds."""
        for filename in self.filenames[:-1]:
            try:
                return self._download(filename)
            except EntryNotFoundError:
                continue
        return self._download(self.filenames[-1])

    def _download(self, filename: str) -> Path:
        return Path(
            hf_hub_download(
                self.repository,
                filename,
                revision=self.revision,
                cache_dir=self.cache_folder,
                endpoint=hub_endpoint(),
            )
        )


@dataclass(frozen=True)
class UrlWeights:
    """A file behind a plain address, kept in torch.hub's cache; a digest in its name is checked."""

    url: str

    @property
    def label(self) -> str:
        """The address."""
        return self.url

    @property
    def cache_folder(self) -> Path:
        """Folder of torch.hub's checkpoints."""
        return Path(torch.hub.get_dir()) / "checkpoints"

    def cached(self) -> Path | None:
        """Return the file of torch.hub's cache."""
        path = self._path()
        return path if path.is_file() else None

    def why_unreachable(self, seconds: float) -> str | None:
        """Return why the server cannot be asked now."""
        return why_unreachable(self.url, seconds)

    def download(self) -> Path:
        """Fetch the file; the digest in its name (`-0676ba61.pth`) is checked."""
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = torch.hub.HASH_REGEX.search(path.name)
        torch.hub.download_url_to_file(self.url, str(path), digest.group(1) if digest else None)
        return path

    def _path(self) -> Path:
        return self.cache_folder / Path(urlparse(self.url).path).name


def find_weights(
    requested: Requested, weights: PublishedWeights | None, architecture: str
) -> tuple[Path | None, PretrainedRecord]:
    """Decide on published weights: the file to load (None: random weights) and the record of the decision.

    `weights` is None where nobody published any for this architecture. `auto` falls back to random weights
    with a `RunWarning`; without the file in the cache it decides within 5 s whether the server answers.

    Raises:
        UserError: `requested` is not true, false or auto; or it is true and no weights can be had.
    """
    check_requested(requested)
    if requested is False:
        return None, PretrainedRecord(False, False, "random initialisation")
    if weights is None:
        return None, _without_weights(requested, architecture, "no published weights are known for it", None)
    if cached := weights.cached():
        return cached, PretrainedRecord(requested, True, f"{weights.label}, cached as {cached.name}")
    reason = weights.why_unreachable(AUTO_DEADLINE_S if requested == "auto" else REQUIRED_DEADLINE_S)
    if reason is None:
        try:
            downloaded = weights.download()
        except Exception as error:  # the clients' errors share no base class
            reason = f"the download failed: {type(error).__name__}: {_first_line(error)}"
        else:
            return downloaded, PretrainedRecord(requested, True, f"{weights.label}, downloaded")
    return None, _without_weights(requested, architecture, reason, weights)


def check_requested(requested: object) -> None:
    """Raise a UserError unless `requested` is true, false or auto."""
    if requested is not True and requested is not False and requested != "auto":
        raise UserError(f"model.pretrained={requested!r}: choose true, false or auto")


def require_file(weights: PublishedWeights, key: str) -> Path:
    """Return a file that the network cannot be built without, from the cache or the server.

    Raises:
        UserError: it is in neither; the text names `key`, the setting that asked for it.
    """
    if cached := weights.cached():
        return cached
    reason = weights.why_unreachable(REQUIRED_DEADLINE_S)
    if reason is None:
        try:
            return weights.download()
        except Exception as error:  # the clients' errors share no base class
            reason = f"the download failed: {type(error).__name__}: {_first_line(error)}"
    raise UserError(
        f"{key}: {weights.label} describes the network and is not in the cache {weights.cache_folder}; {reason}. "
        "Ways round: copy the repository into a folder and set model.architecture=local-dir:FOLDER, or ask a "
        "mirror of the hub by the environment variable HF_ENDPOINT=URL."
    )


@contextmanager
def reading(path: Path, key: str) -> Iterator[None]:
    """Turn what a damaged or foreign weight file raises in the block into a UserError that names `key`."""
    try:
        yield
    except (UserError, TypeError, AssertionError):  # the latter two are about options, not about the file
        raise
    except Exception as error:  # zip, pickle, safetensors and shape errors share no base class
        raise UserError(
            f"{key}: the weights {path} could not be loaded: {type(error).__name__}: {_first_line(error)}. "
            "If the file is damaged, delete it and run again; or set model.pretrained=false."
        ) from error


def hub_endpoint() -> str:
    """Address of the Hugging Face Hub or of the mirror that HF_ENDPOINT names."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def why_unreachable(url: str, seconds: float) -> str | None:
    """Ask the server of `url` for the file's header, within `seconds` and name resolution included.

    Returns None if a server answers at all: a refusal such as 401 or 404 comes from a line that works, and
    the client then fails at once with the better message. Proxies of the environment are honoured.
    """
    outcome: list[str | None] = []
    # A resolver that hangs cannot be interrupted, so it hangs in a thread that nobody waits for.
    thread = threading.Thread(target=lambda: outcome.append(_probe(url, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    host = urlparse(url).netloc
    if not outcome:
        return f"{host} did not answer within {seconds:g} s"
    return outcome[0] and f"{host} cannot be reached ({outcome[0]})"


def _probe(url: str, seconds: float) -> str | None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        # A certificate this interpreter does not know says nothing about the client's own store.
        reason = getattr(error, "reason", error)
        return None if isinstance(reason, ssl.SSLCertVerificationError) else _first_line(reason)
    return None


def _offline_switch() -> str | None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return name
    return "HF_HUB_OFFLINE" if constants.is_offline_mode() else None


def _without_weights(
    requested: Requested, architecture: str, reason: str, weights: PublishedWeights | None
) -> PretrainedRecord:
    subject = weights.label if weights else architecture
    where = f" It is not in the cache {weights.cache_folder}." if weights else ""
    ways = _ways_to_the_file(weights)
    if requested is True:
        raise UserError(
            f"model.pretrained=true: no weights for {subject}: {reason}.{where} Ways round: "
            f"model.pretrained=auto (random weights if there are none), model.pretrained=false. {ways}"
        )
    warnings.warn(
        f"model.pretrained=auto: NO PRETRAINED WEIGHTS, {architecture} starts from random ones. "
        f"{subject}: {reason}.{where} {ways}",
        RunWarning,
        stacklevel=2,
    )
    return PretrainedRecord(requested, False, f"random initialisation: {reason}")


def _ways_to_the_file(weights: PublishedWeights | None) -> str:
    from_file = "model.weights_file=FILE loads a local .safetensors or .pth file"
    if isinstance(weights, HubWeights):
        return f"{from_file}; the environment variable HF_ENDPOINT=URL asks a mirror of the hub."
    return f"{from_file}."


def _first_line(error: object) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
