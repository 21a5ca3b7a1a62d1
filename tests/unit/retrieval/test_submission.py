"""The files of a submission: the exact bytes, what the contest's own script would read, and every way to spoil them."""

import numpy as np
import pytest

from retrieval.codes import pack
from retrieval.submission import (
    BITS,
    code_file,
    gallery_stems,
    problems_of,
    ranking,
    ranking_file,
)

RNG = np.random.default_rng(0)
QUERY_NAMES = [f"q{number:03}.jpg" for number in range(5)]
GALLERY_NAMES = [f"g{number:03}.jpg" for number in range(30)]
QUERY_BITS = RNG.random((5, BITS)) < 0.5
# few distinct codes, so that distances tie
GALLERY_BITS = np.repeat(RNG.random((10, BITS)) < 0.5, 3, axis=0)


def files(query=QUERY_BITS, gallery=GALLERY_BITS):
    positions = ranking(pack(query), pack(gallery))
    return [
        code_file(QUERY_NAMES, pack(query)),
        code_file(GALLERY_NAMES, pack(gallery)),
        ranking_file(QUERY_NAMES, GALLERY_NAMES, positions),
    ]


def problems(contents):
    return problems_of(*contents, QUERY_NAMES, GALLERY_NAMES)


def test_the_bytes_of_a_code_file():
    bits = np.zeros((2, BITS), dtype=bool)
    bits[0, 0] = bits[1, 47] = True
    expected = b"image_id,hashcode\na.jpg,'1" + b"0" * 47 + b"'\nb.jpg,'" + b"0" * 47 + b"1'\n"
    assert code_file(["a.jpg", "b.jpg"], pack(bits)) == expected


def test_the_bytes_of_a_ranking_file():
    content = ranking_file(["a.jpg"], ["x.jpg", "y.z.jpg"], np.array([[1, 0]]))
    assert content == b"Id,Predicted\na.jpg,y.z x\n"


def test_the_ranking_is_that_of_a_slow_loop_with_equal_distances_by_place():
    positions = ranking(pack(QUERY_BITS), pack(GALLERY_BITS))
    for query, places in zip(QUERY_BITS, positions, strict=True):
        distances = [int(sum(a != b for a, b in zip(query, item, strict=True))) for item in GALLERY_BITS]
        assert places.tolist() == sorted(range(30), key=lambda place: (distances[place], place))[:20]


def test_the_slices_of_the_contests_script_find_every_bit():
    for content, bits in zip(files()[:2], (QUERY_BITS, GALLERY_BITS), strict=True):
        for line, wanted in zip(content.decode().splitlines(keepends=True)[1:], bits, strict=True):
            code = line[:-1].split(",")[1][1:-1]
            assert [int(digit) for digit in code] == wanted.astype(int).tolist()


def test_valid_files_have_no_problem():
    assert problems(files()) == []


def _replaced(place, old, new):
    def spoil(contents):
        assert old in contents[place]
        contents[place] = contents[place].replace(old, new, 1)

    return spoil


def _swapped_nearest(contents):
    lines = contents[2].decode().split("\n")
    name, _, rest = lines[1].partition(",")
    first, *others, last = rest.split(" ")
    lines[1] = f"{name},{' '.join([last, *others, first])}"
    contents[2] = "\n".join(lines).encode()


def _dropped_last_line_end(contents):
    contents[0] = contents[0][:-1]


def _windows(contents):
    contents[1] = contents[1].replace(b"\n", b"\r\n")


def _with_mark(contents):
    contents[2] = b"\xef\xbb\xbf" + contents[2]


def _line_twice(contents):
    lines = contents[0].decode().split("\n")
    contents[0] = "\n".join([*lines[:2], lines[1], *lines[2:]]).encode()


def _line_missing(contents):
    lines = contents[0].decode().split("\n")
    contents[0] = "\n".join([lines[0], *lines[2:]]).encode()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_dropped_last_line_end, "submit_query.csv: the last line has no line end"),
        (_windows, "submit_gallery.csv: its lines end as on Windows"),
        (_with_mark, "submit.csv: it starts with a byte order mark"),
        (_line_twice, "submit_query.csv:3: q000.jpg is there twice"),
        (_line_missing, "submit_query.csv: 1 images are missing: q000.jpg"),
        (_replaced(0, b"q000.jpg", b"q999.jpg"), "1 images do not belong there: q999.jpg"),
        (_replaced(0, b"image_id,hashcode", b"image_id;hashcode"), "its header is"),
        (_replaced(0, b",'", b',"'), "submit_query.csv:2:"),
        (_replaced(0, b"0'\n", b"2'\n"), "is not NAME,'48 times 0 or 1'"),
        (_replaced(0, b"0'\n", b"'\n"), "is not NAME,'48 times 0 or 1'"),
        (_replaced(1, b"g000.jpg", b"g 00.jpg"), "submit_gallery.csv:2:"),
        (_replaced(2, b"q000.jpg,", b"q000,"), "submit.csv: 1 images are missing: q000.jpg"),
        (_replaced(2, b" ", b"  "), "submit.csv:2:"),
        (_replaced(2, b" ", b".jpg "), "rankings are not those of the codes"),
        (_swapped_nearest, "1 of 5 rankings are not those of the codes; the first, q000.jpg"),
    ],
)
def test_each_way_to_spoil_a_file_is_named(spoil, expected):
    contents = files()
    spoil(contents)
    assert any(expected in problem for problem in problems(contents)), problems(contents)


def test_nineteen_or_repeated_names_are_named():
    contents = files()
    first = contents[2].decode().split("\n")[1]
    names = first.split(",")[1].split(" ")
    for other in (names[:-1], [*names[:-1], names[0]]):
        spoilt = contents[2].replace(first.encode(), f"q000.jpg,{' '.join(other)}".encode())
        assert any("19 different images" in problem for problem in problems([*contents[:2], spoilt]))


@pytest.mark.parametrize("name", ["a b.jpg", "a,b.jpg", "a'b.jpg", 'a"b.jpg', "a\n.jpg", ""])
def test_names_that_the_files_cannot_say_are_refused(name):
    with pytest.raises(ValueError, match="cannot say"):
        code_file([name], pack(np.zeros((1, BITS), dtype=bool)))


def test_names_that_differ_in_their_suffix_alone_are_refused():
    with pytest.raises(ValueError, match="two gallery images are called 'a'"):
        gallery_stems(["a.jpg", "a.png"])


def test_a_gallery_too_small_for_twenty_names_is_refused():
    with pytest.raises(ValueError, match="the gallery holds 6"):
        ranking(pack(QUERY_BITS), pack(GALLERY_BITS[:6]))
