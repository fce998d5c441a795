import json
import shutil
import struct
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmtoolkit.landmarks.config import DataSettings, LandmarkSettings
from mmtoolkit.landmarks.data.synthetic import render_faces
from mmtoolkit.landmarks.data.text import write_points_txt, write_pts
from mmtoolkit.landmarks.data.write import write_jd
from mmtoolkit.landmarks.export import export
from mmtoolkit.landmarks.load import untrained

SHAPE = np.random.default_rng(0).uniform(10, 80, (106, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def jd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jd") / "set"
    write_jd(folder, render_faces(6, 96, seed=2))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "tiny"


def test_train_eval_predict_export(mmtk, jd, run, tmp_path):
    small = ["-c", "tiny", "-s", "data.rendered=16", "-s", "data.rendered_validation=2"]
    done = mmtk("landmarks", "train", *small, "-o", run, "--device", "cpu", "--json", "-q")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["epochs"] == 2

    resumed = mmtk("landmarks", "train", "--resume", run, "--json", "-q")
    assert json.loads(resumed.stdout)["metrics"] == json.loads(done.stdout)["metrics"]

    scored = mmtk(
        "landmarks", "eval", "--data", jd, "--checkpoint", run, "-o", tmp_path / "e", "--json", "-q"
    )
    assert json.loads(scored.stdout)["metrics"]["faces"] == 6
    assert {"ced.png", "worst.jpg", "errors.csv"} == {p.name for p in (tmp_path / "e").iterdir()}

    out = tmp_path / "out"
    kinds = ["--format", "txt", "--format", "overlay"]
    found = mmtk(
        "landmarks", "predict", jd / "picture", "--checkpoint", run, "-o", out, *kinds, "--json", "-q"
    )
    assert json.loads(found.stdout)["faces"] == 6
    assert len(list((out / "txt").iterdir())) == 6

    ready = mmtk("landmarks", "eval", out / "txt", "--data", jd, "-q")
    assert "missing" in ready.stdout
    compared = mmtk("landmarks", "compare", run, out / "txt", "--data", jd, "--json", "-q")
    assert [c["metric"] for c in json.loads(compared.stdout)["comparisons"]] == ["nme", "auc"]

    submitted = mmtk("landmarks", "submit", "--data", jd, "--checkpoint", run, "-o", tmp_path / "s.zip", "-q")
    assert "6 predictions" in submitted.stdout
    assert mmtk("landmarks", "eval", tmp_path / "s.zip", "--data", jd, "--79", "-q").exit_code == 0

    network = tmp_path / "net.safetensors"
    assert (
        mmtk(
            "landmarks", "export", "--checkpoint", run, "--format", "safetensors", "-o", network, "-q"
        ).exit_code
        == 0
    )
    picture = sorted((jd / "picture").iterdir())[0]
    shown = mmtk("landmarks", "predict", picture, "--checkpoint", network, "--json", "-q")
    assert np.shape(json.loads(shown.stdout)["pictures"][0]["faces"][0]["points"]) == (106, 2)


def test_settings_without_effect_are_reported(mmtk, tmp_path):
    settings = ("model.kind=fan", "model.size=64", "model.stem=9", "loss.simcc_sigma=2")
    changes = [word for setting in settings for word in ("-s", setting)]
    done = mmtk("landmarks", "train", "-c", "tiny", *changes, "--dry-run", "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    for name in ("model.stem", "loss.simcc_sigma"):
        assert f"--set {name}: without effect, as model.kind is fan" in " ".join(done.stderr.split())
    assert "model.size" not in done.stderr


def test_a_detector_is_trained(mmtk, jd, tmp_path):
    command = ["landmarks", "train-detector", "--data", jd, "--scenes", jd, "--steps", 2, "--rendered", 2]
    output = ["-o", tmp_path / "detector.safetensors"]
    planned = json.loads(mmtk(*command, *output, "--dry-run", "--json", "-q").stdout)
    assert (planned["photographs"], planned["scenes"], planned["steps"]) == (6, 6, 2)
    assert list(tmp_path.iterdir()) == []
    done = mmtk(*command, *output, "--json", "-q")
    assert json.loads(done.stdout)["faces"] == 8
    found = mmtk("landmarks", "predict", jd / "picture", "--detector", output[1], "--json", "-q")
    assert len(json.loads(found.stdout)["pictures"]) == 6
    assert mmtk(*command, *output).exit_code == 2
    assert mmtk(*command, "-o", tmp_path / "detector.pt").exit_code == 2


def test_dry_run_writes_nothing(mmtk, jd, tmp_path):
    done = mmtk(
        "landmarks", "train", "-c", "tiny", "--data", jd, "--dry-run", "--json", "-o", tmp_path / "run"
    )
    assert json.loads(done.stdout)["rendered"] == 32
    assert not (tmp_path / "run").exists()


def test_convert_and_profile(mmtk, jd, tmp_path):
    done = mmtk("landmarks", "convert", jd, "--to", "wflw98", "--format", "wflw", "-o", tmp_path / "list.txt")
    assert "wflw98 points of 6 faces" in done.stdout
    misnamed = mmtk("landmarks", "convert", jd, "-o", tmp_path / "list.csv")
    assert misnamed.exit_code == 2
    assert "needs a new .json file" in misnamed.stderr
    costs = mmtk("landmarks", "profile", "-c", "tiny", "--json")
    assert json.loads(costs.stdout)["parameters"] > 1000


def test_points_are_drawn(mmtk, tmp_path):
    assert mmtk("landmarks", "points", "-o", tmp_path / "points.png").exit_code == 0
    assert (tmp_path / "points.png").stat().st_size > 20_000
    assert mmtk("landmarks", "points", "-o", tmp_path / "points.png").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--data", "nowhere", "--checkpoint", "nowhere"], "no such run"),
        (["predict", "nowhere.jpg", "--checkpoint", "nowhere"], "no such run"),
        (["predict", "a.jpg", "--box", "1,2,3"], "left,top,right,bottom"),
        (["eval", "p.zip", "--data", "d", "--checkpoint", "c"], "not both"),
        (["profile", "-c", "tiny", "--checkpoint", "c"], "not both"),
        (["train", "-c", "compct"], "did you mean 'compact'"),
        (["train", "-c", "tiny", "-s", "augment.rotate=3"], "did you mean"),
        (["train", "-c", "tiny", "--data", "nowhere"], "no such file or folder"),
        (["convert", "nowhere", "-o", "x.json"], "no such file or folder"),
    ],
)
def test_mistakes_are_reported_in_one_line(mmtk, arguments, message):
    done = mmtk("landmarks", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """An untrained network in a file."""
    path, landmarker = tmp_path_factory.mktemp("network") / "net.safetensors", untrained("tiny")
    export(landmarker, path, "safetensors")
    return path


def test_scoring_needs_no_data_set(mmtk, network, monkeypatch):
    """Without --data, rendered faces are scored, the same every time; ready predictions need theirs."""
    small = LandmarkSettings(data=DataSettings(rendered_validation=5))
    module = sys.modules["mmtoolkit.landmarks.evaluate"]
    monkeypatch.setattr(module, "LandmarkSettings", lambda: small)
    one, two = (
        json.loads(mmtk("landmarks", "eval", "--checkpoint", network, "--json", "-q").stdout) for _ in "12"
    )
    assert one["data"] == "rendered validation faces"
    assert one["metrics"]["faces"] == 5
    assert one == two
    same = json.loads(mmtk("landmarks", "compare", network, network, "--json", "-q").stdout)
    assert same["comparisons"][0]["first"] == same["comparisons"][0]["second"]


def test_the_weights_that_ship_find_the_astronaut(mmtk):
    from skimage import data

    astronaut = Path(data.__file__).with_name("astronaut.png")
    (picture,) = json.loads(mmtk("landmarks", "predict", astronaut, "--json", "-q").stdout)["pictures"]
    (face,) = picture["faces"]
    points = np.array(face["points"])
    centres = [points[part].mean(0) for part in (slice(66, 75), slice(75, 84), slice(84, 104))]
    np.testing.assert_allclose(centres, [[204, 101], [247, 104], [224, 145]], atol=5)
    assert len((files("mmtoolkit.landmarks") / "weights" / "compact.safetensors").read_bytes()) <= 2_000_000


def test_a_picture_without_a_face_gives_an_empty_list(mmtk, network, tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((80, 80, 3), 127, np.uint8))
    found = mmtk("landmarks", "predict", tmp_path / "grey.png", "--checkpoint", network, "--json", "-q")
    assert json.loads(found.stdout)["pictures"] == [{"name": "grey.png", "faces": []}]
    done = mmtk("landmarks", "submit", "--data", tmp_path, "--checkpoint", network, "-o", tmp_path / "s.zip")
    assert done.exit_code == 0, done.output
    assert "no face found in 1 pictures, taken whole" in " ".join(done.stderr.split())


def test_a_short_video(mmtk, jd, network, tmp_path):
    image = cv2.imread(str(sorted((jd / "picture").iterdir())[0]))
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, image.shape[1::-1])
    for _ in range(4):
        writer.write(image)
    writer.release()
    options = ["--detector", "whole", "--frames", 3, "--no-smooth", "--flip", "--checkpoint", network, "-q"]
    done = mmtk("landmarks", "predict", tmp_path / "v.avi", "-o", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "in 3 pictures" in done.stdout
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["000000", "000001", "000002"]


def test_more_passes_workers_and_a_network_for_onnx(mmtk, jd, network, tmp_path):
    pictures = ["landmarks", "predict", jd / "picture", "--checkpoint", network, "--json", "-q"]
    found = [json.loads(mmtk(*pictures, "--workers", n, "--passes", 3).stdout) for n in (1, 3)]
    one, three = ([p["faces"][0]["points"] for p in result["pictures"]] for result in found)
    np.testing.assert_allclose(one, three, atol=0.05)
    pytest.importorskip("onnxruntime")
    written = tmp_path / "net.onnx"
    done = mmtk("landmarks", "export", "--checkpoint", network, "--format", "onnx", "-o", written, "-q")
    assert done.exit_code == 0, done.output


def damaged_zip(path):
    """Change a byte of a member, whose checksum then fails."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg.txt", write_points_txt(SHAPE))
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)


def locked_zip(path):
    """Mark a member as encrypted, in its own header and in the list of all."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg.txt", write_points_txt(SHAPE))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", content, content.index(signature) + offset, 1)
    path.write_bytes(content)


def coco(path, file="a.png", point=(0, 0, 0), **more):
    keypoints = list(point) * 106
    annotation = {"id": 7, "image_id": 1, "keypoints": keypoints, **more}
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": file}], "annotations": [annotation]}))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A folder of inputs, each with one fault."""
    folder = tmp_path_factory.mktemp("spoilt")
    image = np.zeros((90, 90, 3), np.uint8)
    good = write_points_txt(SHAPE)
    faults = {
        "short": ("landmark/a.png.txt", good[: good.index("\n", 900) + 1]),
        "nan": ("landmark/a.png.txt", "106\nnan 1\n" + "".join(good.splitlines(True)[2:])),
        "large": ("landmark/a.png.txt", "106\n1e40 1\n" + "".join(good.splitlines(True)[2:])),
        "spot": ("landmark/a.png.txt", "106\n" + "5 5\n" * 106),
        "unlabelled": ("weight/a.png.txt", "0\n" * 106),
        "flat": ("rect/a.png.rect", "10 10 10 20"),
        "poses": ("poses.csv", "name,yaw,pitch,roll,expression\na.png,nan,0,0,\n"),
        "lone": ("picture/b.png", cv2.imencode(".png", image)[1].tobytes()),
        "broken": ("picture/a.png", b"no picture"),
    }
    for name, (file, content) in faults.items():
        for part in ("picture", "landmark", "rect", "weight"):
            (folder / name / part).mkdir(parents=True)
        cv2.imwrite(str(folder / name / "picture" / "a.png"), image)
        (folder / name / "landmark" / "a.png.txt").write_text(good)
        (folder / name / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    for part in "AB":
        shutil.copytree(folder / "spot", folder / "twins" / part)
        (folder / "twins" / part / "landmark" / "a.png.txt").write_text(good)
    (folder / "pts").mkdir()
    for name in ("a.png", "a.jpg"):
        cv2.imwrite(str(folder / "pts" / name), image)
    (folder / "pts" / "a.pts").write_text(write_pts(SHAPE))
    cv2.imwrite(str(folder / "a.png"), image)
    coco(folder / "none.json")
    coco(folder / "boxed.json", bbox=[1, 1, 20, 20])
    coco(folder / "unnamed.json", file=3)
    damaged_zip(folder / "damaged.zip")
    locked_zip(folder / "locked.zip")
    (folder / "no.zip").write_bytes(b"PK")
    np.savez(folder / "cut.npz", neutral=np.zeros((500, 3)))
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:900])
    np.save(folder / "array.npy", np.zeros(3))
    return folder


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("eval --data short -o OUT", "a.png.txt: holds"),
        ("eval --data nan -o OUT", "a.png.txt:2: 'nan 1' is not 2 finite numbers"),
        ("eval --data large -o OUT", "a.png.txt:2: '1e40 1' is not 2 finite numbers"),
        ("eval --data spot -o OUT", "a.png.txt: no face: its points are on one spot or line"),
        ("train -c tiny --data spot -o OUT", "no face: its points are on one spot or line"),
        ("eval --data unlabelled -o OUT", "weight/a.png.txt: no face: its points are all left out"),
        ("eval --data flat -o OUT", "a.png.rect:1: the box has no area"),
        ("eval --data poses -o OUT", "poses.csv:2: expected name,yaw,pitch,roll,expression with finite"),
        ("eval --data lone -o OUT", "no landmark file for picture b.png"),
        ("eval --data none.json -o OUT", "annotation 7: no face: its points are all left out"),
        ("train -c tiny --data boxed.json -o OUT", "annotation 7: no face: its points are all left out"),
        ("eval --data unnamed.json -o OUT", "annotation 7: file_name 3 is no name"),
        ("eval --data pts -o OUT", "call it a.jpg.pts or a.png.pts"),
        ("eval --data twins -o OUT", "two pictures are called a.png"),
        ("eval nowhere --data broken -o OUT", "nowhere: no such folder or zip"),
        ("eval damaged.zip --data broken -o OUT", "is damaged or needs a password"),
        ("eval locked.zip --data broken -o OUT", "is damaged or needs a password"),
        ("eval no.zip --data broken -o OUT", "neither a folder nor a zip"),
        ("eval no.zip -o OUT", "with --data"),
        ("eval no.zip --data broken --passes 3 -o OUT", "not both"),
        ("eval no.zip --data broken --device cpu -o OUT", "not both"),
        ("eval --data broken --alpha inf -o OUT", "write an NME"),
        ("predict nosuch.jpg -o OUT", "no such picture, folder or video"),
        ("predict broken -o OUT", "a.png: cannot be read as a picture"),
        ("predict a.png --format video --detector whole -o OUT", "--format video goes with a video"),
        ("predict a.png --frames 3 -o OUT", "go with a video"),
        ("predict a.png --no-smooth -o OUT", "go with a video"),
        ("predict a.mp4 --workers 3 -o OUT", "go with pictures"),
        ("predict a.png --box 1,1,9,9 --detector whole -o OUT", "not both"),
        ("predict a.png --box 100,1,120,9 -o OUT", "its box is outside the picture of 90 x 90"),
        ("predict a.png --download -o OUT", "needs no --download"),
        ("predict a.png --detector smal -o OUT", "--detector smal: no such detector"),
        ("predict a.png --detector none.safetensors -o OUT", "not a safetensors file"),
        ("submit --data twins -o OUT.zip", "two pictures are called a.png"),
        ("submit --data twins -o OUT/s.zip", "in a folder that exists"),
        ("convert twins --format txt -o OUT", "two pictures are called a.png"),
        ("convert broken --to ibug68 --format txt -o OUT", "--format txt holds 106"),
        ("complete twins OUT --model cut.npz", "two pictures are called a.png"),
        ("complete lone OUT --model cut.npz", "no landmark file"),
        ("complete broken OUT --model cut.npz", "not an ICT-FaceKit light model"),
        ("complete broken OUT --model array.npy", "not an ICT-FaceKit light model"),
        ("complete broken OUT --model cut.npz --shift nan 0", "--shift nan 0.0: write pixels"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(mmtk, network, spoilt, monkeypatch, command, message):
    monkeypatch.chdir(spoilt)
    options = [] if command.startswith("convert") else ["-q"]
    if command.startswith(("eval --data", "predict", "submit")):
        options += ["--checkpoint", network]
    before = sorted(spoilt.rglob("*"))
    done = mmtk("landmarks", *command.split(), *options)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(spoilt.rglob("*")) == before
