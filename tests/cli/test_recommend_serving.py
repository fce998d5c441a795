"""Every serving command through the command line: what it prints and what it refuses."""

import csv
import io
import json
import shutil
import sys

import numpy as np
import pytest

SMALL = ["-c", "tiny", "-s", "graph.co_occurrence_threshold=2", "-s", "diffusion.batch_size=32", "-q"]


@pytest.fixture(scope="module")
def named_folder(tiny_folder, tmp_path_factory):
    """The tiny data set of a shop that calls users u0... and items i0..."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("shop") / "tiny")
    for name, count in (("u", 80), ("i", 60)):
        lines = [f"{name}_id\tID", *(f"{name}{n}\t{n}" for n in range(count))]
        (folder / f"{name}_id_mapping.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(mmtk, named_folder, tmp_path_factory):
    """A run on that data set; tests only read it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["mmtoolkit.recommend.train"], "write_run_report", lambda *_: None)
        result = mmtk("recommend", "train", *SMALL, "--data", named_folder, "-o", run)
    assert result.exit_code == 0, result.output
    return run


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_all_users_in_the_three_formats(run, mmtk, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        path = tmp_path / f"all.{suffix}"
        result = mmtk("recommend", "predict", "--checkpoint", run, "--top-k", "5", "-o", path, "--json", "-q")
        assert json.loads(result.stdout) == {
            "command": "recommend predict",
            "users": 80,
            "top_k": 5,
            "files": [str(path)],
        }
    rows = rows_of((tmp_path / "all.csv").read_text())
    records = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "all.parquet")
    assert len(rows) == 400
    assert [row["item"] for row in rows] == [item for one in records for item in one["items"]]
    assert [row["item"] for row in rows] == table["item"].to_pylist()
    assert [row["user"] for row in rows] == table["user"].to_pylist()
    assert records[7]["user"] == "u7"


def test_numbers_instead_of_ids(run, mmtk):
    named = mmtk("recommend", "predict", "--checkpoint", run, "--users", "u5", "-q").stdout
    numbered = mmtk("recommend", "predict", "--checkpoint", run, "--users", "5", "--numbers", "-q").stdout
    assert [row["item"] for row in rows_of(named)] == ["i" + row["item"] for row in rows_of(numbered)]


def test_explanations_as_text_and_json_lines(run, mmtk, tmp_path):
    arguments = ["recommend", "predict", "--checkpoint", run, "--users", "u5", "--top-k", "2", "-q"]
    text = mmtk(*arguments, "--explain").stdout
    assert text.startswith("u5\n  1. i")
    for words in ("from the items of the user", "the rest of the history", "from the neighbours", "buyers"):
        assert text.count(words) == 2
    result = mmtk(*arguments, "--explain", "-o", tmp_path / "why.jsonl")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "why.jsonl").read_text().splitlines()]
    scores = [float(row["score"]) for row in rows_of(mmtk(*arguments).stdout)]
    assert [one["score"] for one in records] == pytest.approx(scores, rel=1e-4)
    for one in records:
        parts = sum(reason["part"] for reason in one["history"])
        assert parts + one["history_rest"] + one["own"] == pytest.approx(one["score"])
        assert set(one["history"][0]) == {"item", "part", "links", "shared_users"}


def test_similar_items(run, mmtk, tmp_path):
    text = mmtk(
        "recommend", "similar", "--checkpoint", run, "--items", "i4", "i9", "--top-k", "3", "-q"
    ).stdout
    rows = rows_of(text)
    assert [row["item"] for row in rows] == ["i4"] * 3 + ["i9"] * 3
    vectors = tmp_path / "vectors"
    mmtk("recommend", "export", "--checkpoint", run, "-o", vectors, "-q")
    items = np.load(vectors / "items.npy")
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    cosine = items @ items[4]
    cosine[4] = -2
    assert [row["neighbour"] for row in rows[:3]] == [f"i{n}" for n in np.argsort(-cosine)[:3]]
    assert float(rows[0]["score"]) == pytest.approx(cosine.max(), abs=1e-4)
    path = tmp_path / "all.jsonl"
    result = mmtk("recommend", "similar", "--checkpoint", run, "-o", path, "--json", "-q")
    assert json.loads(result.stdout)["items"] == 60
    assert len(json.loads(path.read_text().splitlines()[0])["neighbours"]) == 10


def test_new_users(run, mmtk, tmp_path):
    file = tmp_path / "new.csv"
    file.write_text("customer,sku\nzoe,i3\nzoe,i9\nyan,i1\nyan,unknown\nxi,unknown\n")
    result = mmtk("recommend", "new-users", "--checkpoint", run, "--interactions", file, "--top-k", "4")
    rows = rows_of(result.stdout)
    assert [row["user"] for row in rows] == ["zoe"] * 4 + ["yan"] * 4
    assert not {row["item"] for row in rows[:4]} & {"i3", "i9"}
    assert "2 of 5 interactions are with unknown items; 1 users have no other" in result.stderr


@pytest.mark.parametrize("kind", ["igdmrec", "bpr-mf", "ease"])
def test_new_users_are_fitted_once_and_ranked_in_blocks(
    kind, mmtk, trained_run, tmp_path, monkeypatch
):
    new_users = sys.modules["mmtoolkit.recommend.serving.new_users"]
    run, file = trained_run(f"model.kind={kind}"), tmp_path / "new.csv"
    file.write_text("user,item\n" + "".join(f"new{n},{n}\nnew{n},{3 * n + 7}\n" for n in range(5)))
    arguments = ["recommend", "new-users", "--checkpoint", run, "--interactions", file, "-q"]
    at_once = rows_of(mmtk(*arguments).stdout)
    assert len(at_once) == 5 * 20
    fits, blocks = [], []
    fold, rank = new_users.fold_in_users, new_users.ranked
    monkeypatch.setattr(new_users, "fold_in_users", lambda *given: fits.append(1) or fold(*given))
    monkeypatch.setattr(new_users, "ranked", lambda keys, *r: blocks.append(len(keys)) or rank(keys, *r))
    monkeypatch.setattr("mmtoolkit.recommend.evaluation.metrics.RANKED_ENTRIES", 2 * 60 + 1)
    in_blocks = rows_of(mmtk(*arguments).stdout)
    assert blocks == [2, 2, 1]
    assert len(fits) == (kind != "ease")
    assert [row["item"] for row in in_blocks] == [row["item"] for row in at_once]


def test_new_items_from_features(run, mmtk, named_folder, tmp_path):
    for name in ("text", "image"):
        np.save(tmp_path / f"{name}.npy", np.load(named_folder / f"{name}_feat.npy")[:2])
    features = [
        part for name in ("text", "image") for part in ("--features", f"{name}={tmp_path / name}.npy")
    ]
    arguments = ["recommend", "new-items", "--checkpoint", run, *features, "-q"]
    rows = rows_of(mmtk(*arguments, "--top-k", "3").stdout)
    assert [row["item"] for row in rows] == ["0"] * 3 + ["1"] * 3
    assert all(row["user"].startswith("u") for row in rows)
    rows = rows_of(mmtk(*arguments, "--neighbours").stdout)
    assert "i0" in [row["neighbour"] for row in rows if row["item"] == "0"]
    assert sum(float(row["score"]) for row in rows if row["item"] == "0") == pytest.approx(1, abs=1e-4)


def test_export_with_an_index(run, mmtk, tmp_path):
    pytest.importorskip("faiss")
    result = mmtk(
        *("recommend", "export", "--checkpoint", run, "-o", tmp_path / "v", "--index", "flat", "--json", "-q")
    )
    printed = json.loads(result.stdout)
    assert (printed["recall@20"], printed["items"]) == (1.0, 60)
    assert {path.rsplit("/", 1)[1] for path in printed["files"]} == {
        *("users.npy", "items.npy", "user_ids.txt", "item_ids.txt", "items.faiss", "export.json"),
    }
    assert (
        "recall@20"
        in mmtk("recommend", "export", "--checkpoint", run, "-o", tmp_path / "w", "--index", "hnsw").stdout
    )


BAD = {
    "unknown user": (
        ["predict", "--users", "eve"],
        "--users eve: no such user; ids are those of the shop, as 'u0'",
    ),
    "long list": (["predict", "--users", ",".join(["u0"] * 100 + ["eve"])], "--users eve: no such user"),
    "number for an id": (["predict", "--users", "5"], "--users 5: no such user"),
    "unknown item": (
        ["similar", "--items", "x"],
        "--items x: no such item; ids are those of the shop, as 'i0'",
    ),
    "explained csv": (["predict", "--explain", "-o", "x.csv"], "--explain writes text or jsonl, not csv"),
    "odd suffix": (["similar", "-o", "x.txt"], "--output x.txt: name it .csv, .jsonl or .parquet"),
    "parquet to stdout": (["predict", "--format", "parquet"], "--format parquet needs --output FILE"),
    "json without file": (["similar", "--json"], "--json needs --output FILE"),
    "no new items": (["new-items"], "give the new items with --items FILE"),
    "both": (["new-items", "--items", "x.csv", "--features", "text=y.npy"], "give the new items with"),
    "features without name": (["new-items", "--features", "y.npy"], "--features y.npy: write NAME=FILE"),
    "no features file": (["new-items", "--features", "text=y.npy"], "y.npy: not a readable .npy file"),
    "not prepared": (["new-items", "--items", "x.csv"], "not made by 'mmtk recommend prepare'"),
    "features and pictures": (
        ["new-items", "--features", "text=y.npy", "--images", "nowhere"],
        "--images nowhere: does nothing with --features",
    ),
    "no new users": (["new-users", "--interactions", "x.csv"], "x.csv: cannot be read: No such file"),
    "used folder": (["export", "-o", "."], "--output .: already there and not empty"),
}


def test_bad_arguments_are_one_line_and_exit_2(run, mmtk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for kind, (arguments, expected) in BAD.items():
        result = mmtk("recommend", arguments[0], "--checkpoint", run, "-q", *arguments[1:])
        assert result.exit_code == 2, (kind, result.output)
        assert expected in result.stderr, kind
        assert len(result.stderr.strip().splitlines()) == 1, kind
        assert result.stdout == "", kind


def test_new_users_with_only_unknown_items(run, mmtk, tmp_path):
    (tmp_path / "new.jsonl").write_text('{"user": "a", "item": "zz"}\n')
    result = mmtk("recommend", "new-users", "--checkpoint", run, "--interactions", tmp_path / "new.jsonl")
    assert result.exit_code == 2
    assert "none of its items is known; ids are those of the shop, as 'i0'" in result.stderr


@pytest.mark.parametrize(
    ("kind", "command", "expected"),
    [
        ("popularity", ["similar"], "similar needs user and item embeddings, and popularity has none"),
        ("ease", ["export", "-o", "v"], "export needs user and item embeddings, and ease has none"),
        ("popularity", ["predict", "--explain"], "--explain: the scores of popularity are no sums"),
    ],
)
def test_peers_report_what_they_lack(kind, command, expected, mmtk, trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained_run(f"model.kind={kind}")
    result = mmtk("recommend", command[0], "--checkpoint", run, "-q", *command[1:])
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert mmtk("recommend", "predict", "--checkpoint", run, "-q").exit_code == 0
