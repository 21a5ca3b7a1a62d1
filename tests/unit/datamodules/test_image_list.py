"""Images to work on: what a folder, a table, a list and a file stand for, and what is refused with its line."""

import pytest

from datamodules.files.image_list import read_image_list
from records.errors import UserError
from records.notices import RunWarning


def table(folder, content, name="photos.csv"):
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def test_a_folder_is_all_its_images_in_order(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a ü.webp", ".hidden.jpg", ".cache/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    with pytest.warns(RunWarning, match=r"left out: 1 x \.txt"):
        found = read_image_list(tmp_path)
    assert found.names == ("a ü.webp", "b/1.png", "b/2.JPG")
    assert found.folder == tmp_path


def test_linked_folders_are_read_once_and_loops_end(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for path in (inside / "z" / "1.png", outside / "more" / "2.png", outside / ".hidden" / "3.png"):
        path.parent.mkdir(parents=True)
        path.touch()
    (inside / "link").symlink_to(outside)
    (inside / "second").symlink_to(outside / "more")
    (inside / "before_z").symlink_to(inside / "z")
    (inside / ".link").symlink_to(outside)
    (outside / "loop").symlink_to(inside)
    (outside / "more" / "up").symlink_to(outside)
    assert read_image_list(inside).names == ("link/more/2.png", "z/1.png")
    (tmp_path / "whole").symlink_to(inside)
    assert read_image_list(tmp_path / "whole").names == ("link/more/2.png", "z/1.png")


def test_a_file_is_itself(tmp_path):
    (tmp_path / "x.jpg").touch()
    found = read_image_list(tmp_path / "x.jpg")
    assert (found.folder, found.names) == (tmp_path, ("x.jpg",))


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ("path,label\na.jpg,1\nsub/b c.jpg,2\n", {}),
        (b"\xef\xbb\xbfpath,label\r\na.jpg,1\r\nsub/b c.jpg,2\r\n", {}),
        ('label,Image_ID\n1,a.jpg\n2,"sub/b c.jpg"\n\n', {}),
        ("where;label\na.jpg;1\n./sub/b c.jpg;2", {"column": "where", "delimiter": ";"}),
    ],
)
def test_tables(content, settings, tmp_path):
    assert read_image_list(table(tmp_path, content), **settings).names == ("a.jpg", "sub/b c.jpg")


def test_tabs_and_absolute_paths_below_the_folder(tmp_path):
    file = table(tmp_path, f"id\tpath\n1\t{tmp_path}/images/a.jpg\n", "photos.tsv")
    (tmp_path / "images").mkdir()
    assert read_image_list(file).names == ("images/a.jpg",)
    found = read_image_list(file, folder=tmp_path / "images")
    assert (found.folder, found.names) == (tmp_path / "images", ("a.jpg",))


@pytest.mark.parametrize("content", ["a.jpg\nb 1.jpg\n\n", "a.jpg 0 1 0\nb 1.jpg 1 0 0\n"])
def test_lists_with_and_without_labels(content, tmp_path):
    assert read_image_list(table(tmp_path, content, "list.txt")).names == ("a.jpg", "b 1.jpg")


def test_an_image_that_is_listed_twice_counts_once(tmp_path):
    file = table(tmp_path, "path\na.jpg\nb.jpg\n./a.jpg\n")
    with pytest.warns(RunWarning, match=r"1 of the 3 lines .* repeat .* a\.jpg"):
        assert read_image_list(file).names == ("a.jpg", "b.jpg")


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        (
            "path\n../a.jpg\nb.jpg\n/etc/x.jpg\n",
            {},
            r"2 fault.*2 x a path outside the folder(.|\n)*photos.csv:2(.|\n)*:4",
        ),
        ("label,text\n1,a\n", {}, r"columns label, text .* path_column"),
        ("paths,label\na.jpg,1\n", {"column": "path"}, "did you mean 'paths'"),
        ("path,label\na.jpg,1\n,2\n", {}, r"photos.csv:3: there is no path"),
        ("path,label\na,b.jpg,1\n", {}, r"photos.csv:2: 3 columns, and 2"),
        ("path,label\n", {}, "header and no row"),
        ('path\n"a.jpg\n', {}, "not a table"),
        ('path\n"a\nb.jpg"\n', {}, "a line break"),
        ("path\na\n", {"delimiter": ";;"}, "one character"),
        ("path\na\n", {"folder": "/nowhere/at/all"}, "image_dir=/nowhere"),
        (b"path\n\xff.jpg\n", {}, r"photos.csv:2: byte .* is not UTF-8"),
        ("", {}, "is empty"),
    ],
)
def test_faults_are_named_with_their_line(content, settings, expected, tmp_path):
    with pytest.raises(UserError, match=expected):
        read_image_list(table(tmp_path, content), **settings)


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder or file"):
        read_image_list(tmp_path / "none")
    with pytest.raises(UserError, match="no image in this folder"):
        read_image_list(tmp_path)
