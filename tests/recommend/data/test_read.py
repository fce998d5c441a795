"""Reading, and every kind of bad input through the command line."""

import numpy as np
import pytest

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.data.read import load_data, read_folder


def edit(path, change):
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")


def replace(path, line, text):
    edit(path, lambda lines: lines.__setitem__(line - 1, text))


def save(path, change):
    array = np.load(path)
    np.save(path, change(array))


def with_nan(array):
    array[17, 2] = np.nan
    return array


def drop_lines(label):
    return lambda lines: lines.__setitem__(slice(None), [x for x in lines if not x.endswith(f"\t{label}")])


def drop_column(lines):
    lines[:] = [line.rsplit("\t", 1)[0] for line in lines]


BAD = {
    "no file": (lambda f: (f / "tiny.inter").unlink(), "expected exactly one .inter file, found 0"),
    "ragged line": (lambda f: replace(f / "tiny.inter", 9, "3\t4"), "tiny.inter:9: 2 columns where"),
    "missing column": (lambda f: edit(f / "tiny.inter", drop_column), "tiny.inter:1: no column 'x_label'"),
    "word for an id": (lambda f: replace(f / "tiny.inter", 4, "1\tB00\t0"), "tiny.inter:4: itemID 'B00'"),
    "negative id": (lambda f: replace(f / "tiny.inter", 4, "-1\t3\t0"), "tiny.inter:4: userID '-1'"),
    "item out of range": (
        lambda f: replace(f / "tiny.inter", 6, "0\t60\t0"),
        "tiny.inter:6: itemID 60 is out of",
    ),
    "odd label": (lambda f: replace(f / "tiny.inter", 5, "0\t3\t7"), "tiny.inter:5: x_label 7"),
    "phone number for an id": (
        lambda f: replace(f / "tiny.inter", 5, "3000000000\t3\t0"),
        "tiny.inter:5: userID 3000000000 is too large; number them from 0",
    ),
    "ids in another encoding": (
        lambda f: (f / "i_id_mapping.csv").write_bytes(b"id\tnumber\n\xff\t0\n"),
        "i_id_mapping.csv: not UTF-8 text",
    ),
    "empty file": (lambda f: (f / "tiny.inter").write_text(""), "no interactions"),
    "binary file": (lambda f: (f / "tiny.inter").write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
    "empty split": (lambda f: edit(f / "tiny.inter", drop_lines(1)), "the validation split is empty"),
    "NaN": (lambda f: save(f / "text_feat.npy", with_nan), "text_feat.npy: row 17 (and 0 more) has NaN"),
    "too many rows": (
        lambda f: save(f / "text_feat.npy", lambda a: np.vstack([a, a])),
        "120 rows for 60 items",
    ),
    "one axis": (lambda f: save(f / "text_feat.npy", lambda a: a[:, 0]), "expected numbers of shape"),
    "no array": (lambda f: (f / "text_feat.npy").write_text("x"), "not a readable .npy"),
    "damaged archive": (lambda f: (f / "text_feat.npy").write_bytes(b"PK\x03\x04"), "not a readable .npy"),
    "list of wrong shape": (
        lambda f: np.save(f / "text_knn10.npy", np.zeros((60, 9), np.int64)),
        "text_knn10.npy: expected whole numbers of shape (60, 10), found int64 (60, 9)",
    ),
    "list of wrong length": (
        lambda f: np.save(f / "text_knn10.npy", np.zeros((59, 10), np.int64)),
        "text_knn10.npy: 59 rows for 60 items",
    ),
    "list beyond the items": (
        lambda f: np.save(f / "text_knn10.npy", np.full((60, 10), 60)),
        "text_knn10.npy: row 0: item 60 is out of range",
    ),
    "no modality": (lambda f: [p.unlink() for p in f.glob("*.npy")], "no modality"),
}


def forget_user(lines):
    lines[:] = [
        line if not (line.startswith("7\t") and line.endswith("\t0")) else f"8\t{line.split(chr(9))[1]}\t0"
        for line in lines
    ]


BAD["user without positives"] = (
    lambda f: edit(f / "tiny.inter", forget_user),
    "user 7 has no training interaction",
)


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_exit_2_and_writes_nothing(kind, data_folder, tmp_path, mmtk):
    change, expected = BAD[kind]
    change(data_folder)
    output = tmp_path / "run"
    result = mmtk("recommend", "train", "--data", data_folder, "-o", output, "-c", "tiny", "-q")
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert not output.exists()


@pytest.mark.parametrize(
    ("label", "other", "count", "expected"),
    [
        (0, 2, 3, "{pair} (and 2 more pairs) is in train and in test"),
        (1, 0, 1, "{pair} is in train and in validation"),
        (2, 1, 1, "{pair} is in validation and in test"),
    ],
)
def test_a_pair_in_two_splits_is_refused(label, other, count, expected, data_folder, tmp_path, mmtk):
    path = data_folder / "tiny.inter"
    found = [line for line in path.read_text().splitlines() if line.endswith(f"\t{label}")][:count]
    edit(path, lambda lines: lines.extend(f"{line[:-1]}{other}" for line in found))
    user, item, _ = found[0].split("\t")
    result = mmtk("recommend", "train", "--data", data_folder, "-o", tmp_path / "run", "-c", "tiny", "-q")
    assert result.exit_code == 2, result.output
    later = path.read_text().splitlines().index(f"{user}\t{item}\t{max(label, other)}") + 1
    pair = f"tiny.inter:{later}: user {user} with item {item}"
    assert f"{expected.format(pair=pair)}; keep every pair in one split only" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_fewer_feature_rows_than_items_name_the_line(data_folder):
    save(data_folder / "text_feat.npy", lambda a: a[:40])
    with pytest.raises(
        DataError, match=r"tiny\.inter:\d+: itemID \d+ is out of range: the rows of text_feat"
    ):
        read_folder(data_folder)


def test_folder_gives_back_what_was_written(tiny_data, data_folder):
    data = read_folder(data_folder)
    assert data.fingerprint() == tiny_data.fingerprint()
    assert (data.users, data.items) == (80, 60)
    assert np.array_equal(data.modalities["text"].features, tiny_data.modalities["text"].features)


def test_extra_columns_order_typed_headers_and_crlf(tiny_data, data_folder):
    path = data_folder / "tiny.inter"
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    lines = ["x_label:float\trating:float\titem_id:token\tuser_id:token"] + [
        f"{x}\t5.0\t{i}\t{u}" for u, i, x in rows
    ]
    path.write_bytes("\r\n".join(lines).encode())
    assert read_folder(data_folder).fingerprint() == tiny_data.fingerprint()


def test_repeated_interactions_count_once(tiny_data, data_folder):
    edit(data_folder / "tiny.inter", lambda lines: lines.append(lines[1]))
    assert read_folder(data_folder).train.nnz == tiny_data.train.nnz


def test_mapping_adds_items_without_interactions(data_folder):
    (data_folder / "i_id_mapping.csv").write_text(
        "asin\titemID\n" + "".join(f"a{i}\t{i}\n" for i in range(62))
    )
    for path in data_folder.glob("*.npy"):
        save(path, lambda a: np.vstack([a, a[:2]]))
    assert read_folder(data_folder).items == 62


def test_missing_folder_and_no_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="`data` demo"):
        load_data(None)


def test_a_user_with_everything_is_refused(data_folder):
    edit(data_folder / "tiny.inter", lambda lines: lines.extend(f"0\t{i}\t0" for i in range(60)))
    with pytest.raises(DataError, match="user 0 has every item"):
        read_folder(data_folder)
