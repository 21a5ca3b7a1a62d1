"""Any CSV of images, for retrieval and for classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.files.image_file_split import ImageFileSplit, RetrievalFileSplit
from datamodules.files.listing import Listing, read_class_names
from datamodules.files.table_files import Columns, read_table
from datamodules.foreground import ForegroundDraws
from records.errors import UserError


class Table(ImageFileSplit):
    """Images in the rows of a CSV with a header: path, class or classes, and optionally the part.

    Folder it reads::

        root/images.csv      or wherever `file` says
        root/...             the images, where the table says (below `image_dir`)

    Classes are names or numbers, with `label_separator` between several, or `label_columns` of 0 and 1. The part is
    train, val, test, query or database; without such a column a stratified share is drawn for the test.

    Args:
        file: the table.
        path_column: column of the path.
        label_column: column of the class or classes.
        label_separator: what stands between classes, which makes labels multi-hot; None for a single one.
        label_columns: columns of multi-hot labels in place of `label_column`.
        split_column: column of the part; None draws the parts by `split_seed`.
        delimiter: what stands between columns.
        class_names: the classes in order, as a list or a file with one a line; None takes those that occur.
        settings: see `ImageFileSplit`.

    Raises:
        UserError: settings contradict each other.
    """

    def __init__(
        self,
        *,
        file: str | Path,
        path_column: str = "path",
        label_column: str = "label",
        label_separator: str | None = None,
        label_columns: Sequence[str] | None = None,
        split_column: str | None = None,
        delimiter: str = ",",
        class_names: str | Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if label_columns is not None and (label_separator is not None or class_names is not None):
            raise UserError(
                "data.label_columns names the classes and holds 0 and 1; "
                "data.label_separator and data.class_names do not go with it: set them to null"
            )
        self.file = Path(file)
        self.columns = Columns(path_column, label_column, label_separator, label_columns, split_column)
        self.delimiter = delimiter
        self.given_class_names = class_names

    @property
    def protocol_name(self) -> str:
        """Name of the rule that makes the parts."""
        return "table" if self.columns.part else f"table-stratified-{self.test_fraction:g}"

    def read_listing(self) -> Listing:
        """Read the table."""
        names = read_class_names(self.given_class_names)
        return self.with_usual_parts(read_table(self.file, self.columns, self.delimiter, names))


class TableClassification(ForegroundDraws, Table):
    """A table of images with one class each, recognised: parts train, test and, if listed, validation.

    Raises:
        UserError: the settings ask for several classes an image.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.columns.several_classes:
            raise UserError(
                "data.label_separator and data.label_columns give an image several classes; recognition takes one "
                "class: set them to null, or take data=table for retrieval"
            )


class TableRetrieval(Table, RetrievalFileSplit):
    """A table of images, searched: queries (or the test part) in a database, or in the training part without one."""
