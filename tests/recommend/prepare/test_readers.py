"""Every raw format, and every kind of bad input through the command line."""

import gzip
import json

import pytest

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.prepare.catalogue import clean_text, read_catalogue
from mmtoolkit.recommend.prepare.config import ColumnSettings
from mmtoolkit.recommend.prepare.interactions import parse_time, read_interactions
from mmtoolkit.recommend.prepare.readers import guess_text_columns, read_rows

ROWS = [("ann", "x1", 5, 100), ("bob", "x2", 3, 50), ("ann", "x2", 4, 70)]


def table(header, sep, rows=ROWS):
    return sep.join(header) + "\n" + "".join(sep.join(map(str, row)) + "\n" for row in rows)


def objects(*names):
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in ROWS)


FORMATS = {
    "sales.csv": table(["user", "item", "rating", "time"], ","),
    "semicolons.csv": table(["Customer ID", "SKU", "Stars", "Order-Date"], ";"),
    "quoted.csv": 'user,item,rating,time\n"ann","x1",5,100\nbob,x2,3,50\n\nann,x2,4,70\n',
    "sales.tsv": table(["userID", "itemID", "rating", "timestamp"], "\t"),
    "ml.inter": table(
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        "\t",
    ),
    "sales.jsonl": objects("user", "item", "rating", "time"),
    "Baby_5.json": objects("reviewerID", "asin", "overall", "unixReviewTime"),
    "reviews_2023.jsonl": objects("user_id", "parent_asin", "rating", "timestamp"),
    "windows.csv": "\ufeff" + table(["user", "item", "rating", "time"], ",").replace("\n", "\r\n"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_interactions(name, zipped, tmp_path):
    data = FORMATS[name].encode()
    path = tmp_path / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(data) if zipped else data)
    read = read_interactions(path, ColumnSettings())
    assert (read.user_names, read.item_names) == (["ann", "bob"], ["x1", "x2"])
    assert read.users.tolist() == [0, 1, 0]
    assert read.items.tolist() == [0, 1, 1]
    assert read.rating.tolist() == [5, 3, 4]
    assert read.time.tolist() == [100, 50, 70]


def test_columns_can_be_named_and_a_header_given(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("x1,ann\nx2,bob\n")
    read = read_interactions(path, ColumnSettings(header=("what", "who"), user="who", item="what"))
    assert read.user_names == ["ann", "bob"]
    assert read.rating is None
    assert read.time is None


def test_quotes_in_tab_separated_files_are_letters(tmp_path):
    path = tmp_path / "a.item"
    path.write_text('item_id:token\tmovie_title:token_seq\n1\t"Alien\n2\tBig\n')
    assert read_catalogue(path, ["1", "2"], ColumnSettings()).texts == ['"Alien', "Big"]


def test_amazon_meta_in_json_and_in_python_literals(tmp_path):
    meta = {
        "asin": "B1",
        "title": "Cup",
        "categories": [["Home", "Kitchen"]],
        "description": ["Red.", "Big."],
    }
    for name, text in {"a.json": json.dumps(meta), "b.json": repr(meta)}.items():
        (tmp_path / name).write_text(text + "\n")
        catalogue = read_catalogue(tmp_path / name, ["B1", "B2"], ColumnSettings())
        assert catalogue.texts == ["Cup. Home, Kitchen. Red., Big.", ""]
        assert catalogue.titles == ["Cup", ""]


def test_json_lines_may_lack_columns_in_the_first_row(tmp_path):
    path = tmp_path / "meta.jsonl"
    path.write_text('{"asin": "B1", "price": 3}\n{"asin": "B2", "title": "Cup", "brand": null}\n')
    assert read_catalogue(path, ["B1", "B2"], ColumnSettings()).texts == ["", "Cup"]


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [("1700000000", 1.7e9), (1700000000000, 1.7e12), ("1970-01-02", 86400), ("1970-01-01T01:00:00+01:00", 0)],
)
def test_times(cell, seconds):
    assert parse_time(cell) == seconds


def test_texts_lose_markup_and_space():
    assert clean_text("<p>Tea &amp; cups</p>\n\n 5 < 6") == "Tea & cups 5 < 6"
    assert clean_text({"colour": "red", "sizes": ["S", None, "L"]}) == "colour: red, sizes: S, L"
    assert clean_text(None) == ""


def test_text_columns_are_guessed_with_the_title_first():
    assert guess_text_columns(["id", "Description", "price", "Product Name"]) == (
        "Product Name",
        "Description",
    )


BAD_SALES = {
    "ragged": ("a.csv", "user,item\nann,x1\nbob\n", "a.csv:3: 1 columns where the header has 2"),
    "tsv ragged": ("a.tsv", "user\titem\nann\tx1\tx2\n", "a.tsv:2: 3 columns where the header has 2"),
    "atomic ragged": ("a.inter", "user_id:token\titem_id:token\n1\n", "a.inter:2: 1 columns"),
    "no user": ("a.csv", "user,item\n,x1\n", "a.csv:2: no user in column 'user'"),
    "control letter": ("a.csv", 'user,item\nann,"x\t1"\n', "a.csv:2: no item in column 'item'"),
    "no item column": (
        "a.csv",
        "user,thing\nann,x1\n",
        "a.csv:1: no column looks like the item; name it with",
    ),
    "odd rating": (
        "a.csv",
        "user,item,rating\nann,x1,good\n",
        "a.csv:2: rating 'good' is no rating (a number",
    ),
    "odd infinite rating": ("a.csv", "user,item,rating\nann,x1,inf\n", "a.csv:2: rating 'inf'"),
    "odd time": (
        "a.csv",
        "user,item,rating,time\nann,x1,1,1\nann,x2,1,soon\n",
        "a.csv:3: time 'soon' is no time",
    ),
    "twice a column": ("a.csv", "user,item,user\n", "a.csv:1: two columns are named 'user'"),
    "empty": ("a.csv", "", "a.csv: is empty"),
    "header alone": ("a.csv", "user,item\n", "a.csv: no rows below the header"),
    "open quote": ("a.csv", 'user,item\n"ann,x1\n', "a.csv:2: unexpected end of data"),
    "no utf-8": ("a.csv", b"user,item\n\xff\xfe,x1\n", "a.csv: not UTF-8 text"),
    "unknown format": ("a.xlsx", "x", "a.xlsx: unknown format '.xlsx'"),
    "no json": (
        "a.jsonl",
        '{"user": "ann", "item": "x1"}\n{"user": ',
        "a.jsonl:2: not a JSON object",
    ),
    "json array": ("a.json", '[{"user": "ann"}]\n', "a.json:1: not a JSON object; write one object per line"),
    "python call": ("a.json", "{'user': exit()}\n", "a.json:1: not a JSON object"),
    "empty json": ("a.jsonl", "\n\n", "a.jsonl: is empty"),
    "json without item": ("a.jsonl", '{"user": 1, "item": 2}\n{"user": 1}\n', "a.jsonl:2: no item in column"),
    "json list as id": ("a.jsonl", '{"user": [1], "item": 2}\n', "a.jsonl:1: no user in column 'user'"),
    "broken gzip": (
        "a.csv.gz",
        gzip.compress(b"user,item\n" * 999)[:-9],
        "a.csv.gz: damaged or incomplete gzip",
    ),
    "no gzip": ("a.json.gz", "{}", "a.json.gz: damaged or incomplete gzip"),
    "missing": ("", "", "cannot be read: No such file"),
    "nothing left": ("a.csv", "user,item\nann,x1\n", "no interaction is left of 1"),
}


@pytest.mark.parametrize("kind", BAD_SALES)
def test_bad_interactions_are_one_line_exit_2_and_write_nothing(kind, shop, tmp_path, mmtk):
    name, content, expected = BAD_SALES[kind]
    path = tmp_path / (name or "nowhere.csv")
    if name:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    needed = ["--split", "time", "--min-rating", "1"] if kind.startswith("odd") else []
    refuse(mmtk, tmp_path, expected, "--interactions", path, "--items", shop / "products.csv", *needed)


BAD_CATALOGUES = {
    "no item column": ("a.csv", "thing,title\np01,Cup\n", "a.csv:1: no column looks like the item"),
    "no text column": ("a.csv", "sku,price\np01,3\n", "a.csv:1: no column looks like a text; name some with"),
    "no item": ("a.csv", "sku,title\n,Cup\n", "a.csv:2: no item in column 'sku'"),
    "others' items": ("a.csv", "sku,title\nzz,Cup\n", "a.csv: column 'sku' has none of the items"),
    "header alone": ("a.item", "item_id:token\tname:token_seq\n", "a.item: no rows below the header"),
    "ragged": ("a.item", "item_id:token\tname:token_seq\n1\n", "a.item:2: 1 columns"),
    "no json": ("meta.json.gz", gzip.compress(b"nonsense\n"), "meta.json.gz:1: not a JSON object"),
}


@pytest.mark.parametrize("kind", BAD_CATALOGUES)
def test_bad_catalogues_are_one_line_exit_2_and_write_nothing(kind, shop, tmp_path, mmtk):
    name, content, expected = BAD_CATALOGUES[kind]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refuse(mmtk, tmp_path, expected, "--interactions", shop / "sales.csv", "--items", path)


BAD_OPTIONS = {
    "typo in a column": (
        ["--user-column", "custommer"],
        "did you mean 'customer'?; the columns are: customer, sku",
    ),
    "typo in a text column": (
        ["--text-column", "titel"],
        "products.csv:1: no column 'titel' (--text-column)",
    ),
    "no such image column": (
        ["--image-column", "file", "--images", "../shop/photos"],
        "no column 'file' (--image-column)",
    ),
    "no image folder": (["--images", "nowhere"], "nowhere: no such folder; name the folder of the pictures"),
    "no picture fits": (["--images", "."], "none of its 0 pictures belongs to an item"),
    "no encoder": (["--text-encoder", "nowhere"], "--text-encoder nowhere: neither a folder nor a hub id"),
    "no package": (["--text-encoder", "package:nowhere"], "package:nowhere: this package is not installed"),
    "package without model": (["--text-encoder", "package:numpy"], "this package contains no model"),
    "no model folder": (["--text-encoder", "."], "cannot be used as text encoder"),
    "unreached hub": (
        ["--text-encoder", "no-owner/no-model"],
        "--text-encoder no-owner/no-model: no such folder",
    ),
    "too strict": (["--item-core", "99"], "lower --user-core, --item-core or --min-rating"),
    "no label": (["--split", "given"], "split.kind given needs a column x_label"),
    "odd ratio": (["-s", "split.ratio=[8, 1]"], "split.ratio"),
    "unknown setting": (["-s", "split.knd=time"], "no such setting 'split.knd'; did you mean 'split.kind'?"),
    "nothing to encode": (["--text-encoder", "none"], "nothing to encode"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_options_are_one_line_exit_2_and_write_nothing(kind, shop, tmp_path, mmtk, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    changes, expected = BAD_OPTIONS[kind]
    needed = ["--interactions", shop / "sales.csv", "--items", shop / "products.csv"]
    refuse(mmtk, tmp_path, expected, *needed, *changes)


def refuse(mmtk, tmp_path, expected, *arguments):
    output = tmp_path / "set"
    result = mmtk("recommend", "prepare", *arguments, "-o", output, "-q")
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert not output.exists()


def test_no_file_and_no_folder_named(mmtk, tmp_path):
    result = mmtk("recommend", "prepare", "--items", "x.csv", "-o", tmp_path / "set")
    assert result.exit_code == 2
    assert "no interactions: name the file" in result.stderr
    result = mmtk("recommend", "prepare", "--interactions", "x.csv")
    assert result.exit_code == 2
    assert "--output FOLDER" in result.stderr


def test_a_directory_is_no_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("header", "cells"),
    [("date", ["01.01.2024", "02.01.2024"]), ("rating", ["5", ""]), ("x_label", ["0", "later"])],
)
def test_a_guessed_column_that_does_not_parse_is_left_out_with_a_note(header, cells, tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text(f"user,item,{header}\nann,x1,{cells[0]}\nbob,x2,{cells[1]}\n")
    read = read_interactions(path, ColumnSettings())
    assert (read.rating, read.time, read.label) == (None, None, None)
    assert read.columns == {"user": "user", "item": "item"}
    assert f"column '{header}' is ignored" in caplog.text
    role = {"date": "time", "rating": "rating", "x_label": "label"}[header]
    remedy = "convert the whole column" if header == "date" else "correct or delete this line"
    for strict in ({"chosen": ColumnSettings(**{role: header})}, {"needed": [role]}):
        with pytest.raises(DataError, match=f"{header} '.*' is no {role}.*; {remedy}"):
            read_interactions(path, **{"chosen": ColumnSettings()} | strict)


def test_the_next_guess_is_used_if_the_first_does_not_parse(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user,item,time,date\nann,x1,12:30,1970-01-02\nbob,x2,9:15,1970-01-03\n")
    for needed in ([], ["time"]):
        read = read_interactions(path, ColumnSettings(), needed=needed)
        assert read.columns["time"] == "date"
        assert read.time.tolist() == [86400, 172800]
    path.write_text("user,item,time,date\nann,x1,5,1970-01-02\nbob,x2,,1970-01-03\n")
    with pytest.raises(DataError, match=r"a\.csv:3: time '' is no time"):
        read_interactions(path, ColumnSettings(), needed=["time"])


def test_a_shop_with_german_dates_is_split_at_random_but_not_by_time(shop, arguments, mmtk, tmp_path):
    lines = (shop / "sales.csv").read_text().splitlines()
    dated = [lines[0], *(line.rpartition(",")[0] + ",01.01.2024" for line in lines[1:])]
    (shop / "sales.csv").write_text("\n".join(dated) + "\n")
    result = mmtk(*arguments, "-o", tmp_path / "set", "-n", "--json")
    assert result.exit_code == 0, result.output
    assert "column_time" not in json.loads(result.stdout)
    for option in (["--split", "time"], ["--time-column", "date"], ["-s", "filter.duplicates=last"]):
        refused = mmtk(*arguments, "-o", tmp_path / "set", *option)
        assert refused.exit_code == 2
        assert "sales.csv:2: date '01.01.2024' is no time" in refused.stderr
        assert "; convert the whole column" in refused.stderr
        hint = ", or name another one with --time-column\n"
        assert refused.stderr.endswith(hint) == (option[0] != "--time-column")
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()
