"""Lists in every format, and ids."""

import csv
import io
import json

import pytest

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.recommend.load import load
from mmtoolkit.recommend.serving.lists import ROW_GROUP, Heads, Ranked, list_format, write_lists
from mmtoolkit.recommend.serving.names import Names, parse_ids, read_names

USERS, ITEMS = Names("user", 2, ["ann", "bob, jr"]), Names("item", 3, ["x", "y", "z"], ["Cup", "", "Tea"])
HEADS = Heads("user", "item", USERS, ITEMS)
LISTS = [Ranked(1, [2, 0], [0.5, 0.25]), Ranked(0, [], []), Ranked(0, [1], [-1e-7])]
ROWS = [("bob, jr", 1, "z", 0.5), ("bob, jr", 2, "x", 0.25), ("ann", 1, "y", -1e-7)]


def test_the_three_formats_hold_the_same(tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    for kind in ("csv", "jsonl", "parquet"):
        write_lists(LISTS, HEADS, tmp_path / f"a.{kind}", kind)
    rows = list(csv.reader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert rows[0] == ["user", "rank", "item", "score"]
    assert [(user, int(rank), item, float(score)) for user, rank, item, score in rows[1:]] == ROWS
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert records[0] == {"user": "bob, jr", "items": ["z", "x"], "scores": [0.5, 0.25]}
    assert records[1] == {"user": "ann", "items": [], "scores": []}
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["user", "rank", "item", "score"]
    read = list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    assert [row[:3] for row in read] == [row[:3] for row in ROWS]
    assert [row[3] for row in read] == pytest.approx([row[3] for row in ROWS])
    write_lists(LISTS, HEADS, None, "csv")
    assert capsys.readouterr().out == (tmp_path / "a.csv").read_text()


def test_parquet_comes_in_row_groups_and_keeps_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    count = ROW_GROUP + 3
    heads = Heads("user", "item", Names("user", count), Names("item", 3))
    write_lists(
        (Ranked(n, [1, 2], [1.0, 0.5]) for n in range(count)), heads, tmp_path / "a.parquet", "parquet"
    )
    file = parquet.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(2)] == [2 * ROW_GROUP, 6]
    assert file.read()["user"].to_pylist()[-1] == count - 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_failure_leaves_the_old_file(kind, tmp_path):
    def broken():
        yield LISTS[0]
        raise RuntimeError("stop")

    path = tmp_path / f"a.{kind}"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_lists(broken(), HEADS, path, kind)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_parquet_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install .*\[parquet\]'"):
        list_format(tmp_path / "a.parquet", None)


def test_ids_are_those_of_the_shop_if_the_folder_has_them(trained_run, data_folder):
    model = load(trained_run("model.kind=popularity"), data_folder)
    users, items = read_names(model)
    assert (users.id(3), items.id(5), items.title(5)) == (3, 5, "5")
    (data_folder / "u_id_mapping.csv").write_text(
        "user_id\tuserID\n" + "".join(f"u{n}\t{n}\n" for n in range(79, -1, -1))
    )
    (data_folder / "items.jsonl").write_text(
        "".join(json.dumps({"title": f"T{n}"}) + "\n" for n in range(60))
    )
    users, items = read_names(model)
    assert (users.id(3), users.find("u7"), users.find("7"), items.title(5)) == ("u3", 7, None, "5 (T5)")
    assert read_names(model, numbers=True)[0].id(3) == 3
    (data_folder / "items.jsonl").write_text("nonsense\n")
    assert read_names(model)[1].title(5) == "5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_id\tuserID\nu0\n", r"u_id_mapping.csv:2: expected an id, a tab and a number below 80"),
        ("user_id\tuserID\nu0\t80\n", r"u_id_mapping.csv:2: expected an id"),
        ("user_id\tuserID\nu0\t0\n", r"has no id for number 1"),
    ],
)
def test_bad_mappings(text, expected, trained_run, data_folder):
    model = load(trained_run("model.kind=popularity"), data_folder)
    (data_folder / "u_id_mapping.csv").write_text(text)
    with pytest.raises(DataError, match=expected):
        read_names(model)


def test_ids_with_commas_and_files(tmp_path):
    assert parse_ids(["bob, jr", "ann"], USERS) == [1, 0]
    assert parse_ids(["x,z"], ITEMS) == [0, 2]
    (tmp_path / "ids").write_text("z\n\nx\n")
    assert parse_ids([str(tmp_path / "ids")], ITEMS) == [2, 0]
    (tmp_path / "ids").write_text("z\nq\n")
    with pytest.raises(DataError, match="ids:2: 'q' is no item id; ids are those of the shop, as 'x'"):
        parse_ids([str(tmp_path / "ids")], ITEMS)
    (tmp_path / "ids").write_text("\n")
    with pytest.raises(DataError, match="holds no item id"):
        parse_ids([str(tmp_path / "ids")], ITEMS)
    with pytest.raises(UsageError, match="`users` eve: no such user; ids are those of the shop, as 'ann'"):
        parse_ids(["eve"], USERS)
