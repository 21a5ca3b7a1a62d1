"""Features that were extracted before: from an npz archive or from Tip-Adapter's cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from datamodules.encoded.feature_files import FeatureFile, read_npz, read_tensor, read_tip_adapter_cache
from datamodules.encoded.feature_sets import UnitLength, clean_features
from datamodules.encoded.few_shot import FewShotDataModule, Pools
from records.errors import UserError


class Features(FewShotDataModule):
    """Few-shot recognition on features that lie in a file; the support set is drawn from its training part.

    Files are described in `datamodules/encoded/feature_files.py`. Of Tip-Adapter's cache the support set is what it
    holds: `shots` chooses the file, nothing is drawn, and `validation` takes from its validation part alone.

    Args:
        file: npz archive; or the folder of a Tip-Adapter cache.
        layout: "npz" or "tip_adapter".
        keys: what arrays of the npz archive are called, where not by our names: {train_features: x, ...}; that of the
            text features is about `text_file` where there is one.
        text_file: text features from another file: npz with `text_features` (C, D) (and `class_names`), or a tensor
            (D, C) in a .pt file, as CLIP's classifier weights are stored; None for none but those of `file`.
        unit_length: see `clean_features`.
        shared: see `FewShotDataModule`.

    Raises:
        UserError: a file is missing or damaged, or its features are not fit for use.
    """

    def __init__(
        self,
        *,
        file: str | Path | None,
        layout: Literal["npz", "tip_adapter"] = "npz",
        keys: Mapping[str, str | None] | None = None,
        text_file: str | Path | None = None,
        unit_length: UnitLength = "check",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if file is None:
            raise UserError(
                "data.file is null: name the npz archive with your features, or with data.layout=tip_adapter the "
                "folder of a cache; datamodules/encoded/feature_files.py says what is read. None: data=digits_fewshot"
            )
        if layout not in ("npz", "tip_adapter"):
            raise UserError(f"data.layout is {layout!r}; the choices are npz, tip_adapter")
        self.file = Path(file).expanduser()
        self.layout = layout
        self.keys = {key: name for key, name in (keys or {}).items() if name is not None}
        self.text_file = None if text_file is None else Path(text_file).expanduser()
        self.unit_length: UnitLength = unit_length
        self._content: FeatureFile | None = None
        self._text: FeatureFile | None = None

    @property
    def source_name(self) -> str:
        """Name of the file."""
        return self.file.stem

    @property
    def content(self) -> FeatureFile:
        """What the file holds, features cleaned; read at the first use."""
        if self._content is None:
            self._content = self._clean(self._read())
        return self._content

    @property
    def text_content(self) -> FeatureFile:
        """What the file with the text features holds, features cleaned; empty where there is none."""
        if self._text is None:
            self._text = FeatureFile() if self.text_file is None else self._clean(self._read_text(self.text_file))
        return self._text

    def _read(self) -> FeatureFile:
        if self.layout == "npz":
            elsewhere = () if self.text_file is None else ("text_features",)
            return read_npz(self.file, {key: name for key, name in self.keys.items() if key not in elsewhere})
        if self.shots is None:
            raise UserError("data.shots=null: a Tip-Adapter cache is of a number of shots; name it")
        return read_tip_adapter_cache(self.file, self.shots)

    def _read_text(self, path: Path) -> FeatureFile:
        if path.suffix == ".npz":
            renamed = {key: name for key, name in self.keys.items() if key == "text_features"}
            return read_npz(path, renamed, needed=("text_features",))
        return FeatureFile({"text_features": read_tensor(path).T.contiguous()})

    def _clean(self, file: FeatureFile) -> FeatureFile:
        cleaned = {
            key: clean_features(array, key, self.unit_length) if key.endswith("features") else array
            for key, array in file.arrays.items()
        }
        return FeatureFile(cleaned, file.class_names)

    def load_pools(self) -> Pools:
        """Read the labels of the pools; classes without names are called by their numbers."""
        arrays = self.content.arrays
        pools = ("train", "test", *(("val",) if "val_labels" in arrays else ()))
        labels = {pool: arrays[f"{pool}_labels"] for pool in pools}
        names = self.text_content.class_names or self.content.class_names
        count = self._count_classes(labels) if names is None else len(names)
        return Pools(labels, names or tuple(map(str, range(count))), arrays.get("seen_classes"))

    def _count_classes(self, labels: Mapping[str, Tensor]) -> int:
        text = self.load_text()
        return len(text) if text is not None else 1 + max(int(rows.max()) for rows in labels.values() if len(rows))

    def pool_features(self, pool: str, positions: Tensor, split: str) -> Tensor:
        """Features of a pool at positions int64 (n,): float32 (n, D), or (n, V, D) of the pool "train"."""
        return self.content.arrays[f"{pool}_features"][positions]

    def load_text(self) -> Tensor | None:
        """Text features (C, D) of the text's own file, else of the file itself, else None."""
        return self.text_content.arrays.get("text_features", self.content.arrays.get("text_features"))

    def load_unlabelled(self) -> Tensor | None:
        """Return the file's unlabelled features (M, D), None where it has none."""
        return self.content.arrays.get("unlabelled_features")
