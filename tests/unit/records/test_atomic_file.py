import json
import os
import stat

import pytest

from records.atomic_file import remove_leftovers, replace_atomically, write_json, write_text


def test_content_is_replaced_and_nothing_else_stays(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    write_text(path, "größer 数")
    assert path.read_text(encoding="utf-8") == "größer 数"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_error_inside_the_block_keeps_the_old_content(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_half() -> None:
        with replace_atomically(path) as file:
            file.write(b"half of the new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with replace_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_error_of_the_rename_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def refuse(*arguments, **named):
        raise OSError("no rename")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OSError, match="no rename"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_bytes_are_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, type(tmp_path).replace

    def record_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(source, target):
        events.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(type(tmp_path), "replace", record_replace)
    write_text(tmp_path / "file.txt", "content")
    assert events == ["file", "rename", "folder"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_json_is_strict(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"b": 1, "a": [1.5, None, "é"]})
    assert list(json.loads(path.read_text(encoding="utf-8"))) == ["b", "a"]
    with pytest.raises(ValueError):
        write_json(path, {"b": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["b"] == 1


def test_leftovers_of_this_file_alone_are_removed(tmp_path):
    for name in (".last.ckpt.00ff.tmp", ".best.ckpt.00ff.tmp", "last.ckpt", ".last.ckpt"):
        (tmp_path / name).write_text("x")
    assert remove_leftovers(tmp_path / "last.ckpt") == 1
    assert sorted(e.name for e in tmp_path.iterdir()) == [".best.ckpt.00ff.tmp", ".last.ckpt", "last.ckpt"]
    assert remove_leftovers(tmp_path / "missing" / "last.ckpt") == 0
