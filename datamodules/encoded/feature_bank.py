"""Features that are computed once and kept: shards on disk, found again by what they depend on.

A bank is a folder::

    bank.json                  the key in words, the number of items, the size of a shard
    shard-00000.safetensors    `features` float32 (n, V, D); its metadata hold the key's digest and the range of items

A shard is written whole or not at all, so that an interrupted run goes on with the first one that is missing, and
several processes (ranks, machines) may fill one bank together: rank r of W makes the shards r, r + W, ...
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from records.atomic_file import replace_atomically, write_json
from records.errors import UserError

FORMAT = "feature-bank"
VERSION = 1
SHARD_SIZE = 2048
EncodeRange = Callable[[int, int], Iterable[Tensor]]
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class BankKey:
    """Everything that features depend on; two keys with the same digest have the same features.

    Args:
        kind: "images" or "text".
        encoder: sha256 of the encoder's weights and shape.
        transform: what is done to an item before it is encoded, in words that change when it does.
        views: views of each item.
        data: sha256 of the list of items.
    """

    kind: str
    encoder: str
    transform: str
    views: int
    data: str

    @property
    def digest(self) -> str:
        """Sha256 over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class FeatureBank:
    """A folder of shards of the features of `count` items under one key; to look at it writes nothing.

    Raises:
        UserError: the folder holds a bank of another key or size; says what differs.
    """

    folder: Path
    key: BankKey
    count: int
    shard_size: int = SHARD_SIZE

    def __post_init__(self) -> None:
        if self._description.is_file():
            self._refuse_foreign(self._read_description())

    def begin(self) -> None:
        """Write what the bank is of, where that is not there yet."""
        if not self._description.is_file():
            write_json(self._description, self._content)

    @property
    def shards(self) -> range:
        """Numbers of the shards."""
        return range(-(-self.count // self.shard_size))

    def bounds(self, shard: int) -> tuple[int, int]:
        """First item of a shard and the one behind its last."""
        return shard * self.shard_size, min(self.count, (shard + 1) * self.shard_size)

    def path(self, shard: int) -> Path:
        """File of a shard."""
        return self.folder / f"shard-{shard:05d}.safetensors"

    def missing(self) -> list[int]:
        """Shards that are not there yet."""
        return [shard for shard in self.shards if not self.path(shard).is_file()]

    def size_of(self, shards: Iterable[int]) -> int:
        """Items in some of the shards."""
        return sum(stop - start for start, stop in map(self.bounds, shards))

    def refuse_foreign_shards(self) -> None:
        """Look at the heads of the shards that are there, so that no time is spent on more where one does not belong.

        Raises:
            UserError: a shard is damaged, or belongs to another bank.
        """
        for shard in self.shards:
            if self.path(shard).is_file():
                with self._opened(shard):
                    pass

    def write(self, shard: int, features: Tensor) -> None:
        """Write a shard, whole: features (n, V, D) of its items.

        Raises:
            ValueError: the shape is not that of the shard.
        """
        start, stop = self.bounds(shard)
        if features.ndim != 3 or features.shape[:2] != (stop - start, self.key.views):
            raise ValueError(f"shard {shard} takes ({stop - start}, {self.key.views}, D), not {tuple(features.shape)}")
        content = safetensors.torch.save({"features": features.float().contiguous()}, self._metadata(shard))
        with replace_atomically(self.path(shard)) as file:
            file.write(content)

    def read(self) -> Tensor:
        """Read all features: float32 (count, V, D).

        Raises:
            UserError: a shard is missing, damaged, or belongs to another bank.
        """
        if missing := self.missing():
            raise UserError(
                f"the feature bank {self.folder} is not complete: {len(missing)} of {len(self.shards)} shards lack"
            )
        return torch.cat([self._read_shard(shard) for shard in self.shards])

    def _read_shard(self, shard: int) -> Tensor:
        with self._opened(shard) as file:
            features: Tensor = file.get_tensor("features")
        return features

    @contextmanager
    def _opened(self, shard: int) -> Iterator[safetensors.safe_open]:
        path = self.path(shard)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                if file.metadata() != self._metadata(shard):
                    raise UserError(f"{path} belongs to another feature bank; delete it, and it is made anew")
                yield file
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it, and it is made anew") from error

    @property
    def _description(self) -> Path:
        return self.folder / "bank.json"

    @property
    def _content(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "version": VERSION,
            **asdict(self.key),
            "count": self.count,
            "shard_size": self.shard_size,
        }

    def _metadata(self, shard: int) -> dict[str, str]:
        start, stop = self.bounds(shard)
        return {"key": self.key.digest, "start": str(start), "stop": str(stop)}

    def _read_description(self) -> dict[str, object]:
        try:
            content = json.loads(self._description.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._description} cannot be read ({error}); delete the folder to make the bank anew"
            ) from error
        return content if isinstance(content, dict) else {}

    def _refuse_foreign(self, stored: dict[str, object]) -> None:
        differing = [
            f"{name} ({_short(stored.get(name))} there, {_short(wanted)} now)"
            for name, wanted in self._content.items()
            if stored.get(name) != wanted
        ]
        if differing:
            raise UserError(
                f"the feature bank {self.folder} was made for something else: it differs in {'; '.join(differing)}. "
                "Choose the settings it was made with, or let the features be computed anew with data.bank=null"
            )


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) > 64 else text


def open_bank(root: Path, name: str, key: BankKey, count: int) -> FeatureBank:
    """Open the bank of a key below a folder of banks: its folder is named by the digest, so keys never meet."""
    return FeatureBank(root / f"{name}-{key.digest[:16]}", key, count)


def fill_bank(
    bank: FeatureBank,
    encode: EncodeRange,
    rank: int = 0,
    world_size: int = 1,
    report: Report | None = None,
    patience_s: float = 1800.0,
) -> Tensor:
    """Compute what a bank lacks, and return all of it.

    Args:
        bank: the bank.
        encode: yields the features (b, V, D) of the items start .. stop - 1, in order, batch by batch.
        rank: this process, which makes every world_size-th shard.
        world_size: number of processes that fill the bank.
        report: told (items done, items in all) as they come, of this process's share.
        patience_s: how long to wait for another process's next shard.

    Returns:
        float32 (count, V, D).

    Raises:
        UserError: another process makes no shard for too long, or a shard cannot be read.
    """
    bank.begin()
    bank.refuse_foreign_shards()
    own, missing = bank.shards[rank::world_size], bank.missing()
    lacking = [shard for shard in own if shard in set(missing)]
    total = bank.size_of(own)
    done = total - bank.size_of(lacking)
    for shard in lacking:
        rows = []
        for features in encode(*bank.bounds(shard)):
            rows.append(features)
            done += len(features)
            if report is not None:
                report(done, total)
        bank.write(shard, torch.cat(rows))
    _wait(bank, patience_s)
    return bank.read()


def _wait(bank: FeatureBank, patience_s: float) -> None:
    missing, since = len(bank.missing()), time.monotonic()
    while left := len(bank.missing()):
        if left < missing:
            missing, since = left, time.monotonic()
        if time.monotonic() - since > patience_s:
            raise UserError(
                f"the feature bank {bank.folder} lacks {left} shards, and no other process has made one for "
                f"{patience_s:g} s; run again, and this process goes on alone if it is the only one"
            )
        time.sleep(0.2)


def fingerprint_of(items: Sequence[str]) -> str:
    """Hash a list of items in its order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{len(item)}:{item}".encode())
    return digest.hexdigest()
