import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.config import DataSettings
from mmtoolkit.landmarks.convert import convert
from mmtoolkit.landmarks.data import text
from mmtoolkit.landmarks.data.batches import split_photos
from mmtoolkit.landmarks.data.face import enclosing_box, jitter_box, official_box
from mmtoolkit.landmarks.data.images import crop_squares, from_square, square_boxes, to_square
from mmtoolkit.landmarks.data.read import read_annotations
from mmtoolkit.landmarks.data.write import write_jd

LINES = [f"{i} {i + 1}" for i in range(106)]


def landmark_file(tmp_path, content):
    path = tmp_path / "a.jpg.txt"
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(["106", *LINES]) + "\n",
        "\n".join(["106", *LINES]),
        "\r\n".join(["106", *LINES]) + "\r\n",
        "\n".join(["106", *(f"{i}.0 {i + 1}.00" for i in range(106))]) + "\n\n",
        "\ufeff" + "\n".join(["106", *(f"  {line} " for line in LINES)]),
    ],
)
def test_landmark_files_are_read(tmp_path, content):
    found = text.read_points_txt(landmark_file(tmp_path, content))
    np.testing.assert_array_equal(found, [[i, i + 1] for i in range(106)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join(["106", *LINES[:105]]), "holds 105 points, not 106"),
        ("\n".join(["106", *LINES, "1 2"]), "holds 107 points"),
        ("\n".join(["105", *LINES[:105]]), "begins with '105'"),
        ("", "begins with 'an empty file'"),
        ("\n".join(["106", "nan 3", *LINES[1:]]), "a.jpg.txt:2: 'nan 3' is not 2 finite numbers"),
        ("\n".join(["106", *LINES[:50], "1 inf", *LINES[51:]]), "a.jpg.txt:52"),
        ("\n".join(["106", *LINES[:50], "1 2 3", *LINES[51:]]), "a.jpg.txt:52"),
        ("\n".join(["106", *LINES[:50], "one 2", *LINES[51:]]), "a.jpg.txt:52"),
    ],
)
def test_malformed_landmark_files_are_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        text.read_points_txt(landmark_file(tmp_path, content))


@pytest.mark.parametrize("box", ["10 10 10 20", "10 10 20 5", "1 2 3", "", "1 2 nan 4"])
def test_boxes_without_area_are_refused(tmp_path, box):
    path = tmp_path / "a.jpg.rect"
    path.write_text(box)
    with pytest.raises(DataError, match=r"a\.jpg\.rect:1"):
        text.read_rect(path)


def test_jd_round_trip_in_folder_and_zip(faces, jd_folder, tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in jd_folder.rglob("*"):
            out.write(file, Path("Training_data") / file.relative_to(jd_folder))
    by_name = {face.name: face for face in faces}
    for source in (jd_folder, archive):
        found = read_annotations(source)
        assert [item.name for item in found] == sorted(by_name)
        for item in found:
            face, original = item.face(), by_name[item.name]
            np.testing.assert_allclose(face.points, original.points, atol=1e-3)
            np.testing.assert_allclose(face.box, original.box, atol=0.01)
            assert face.yaw == original.yaw
            assert face.expression == original.expression
            assert face.image.shape == original.image.shape


def test_weights_round_trip(faces, tmp_path):
    import dataclasses

    weights = np.linspace(0, 1, 106).astype(np.float32)
    write_jd(tmp_path / "set", [dataclasses.replace(faces[0], weights=weights)])
    (found,) = read_annotations(tmp_path / "set")
    np.testing.assert_allclose(found.weights, weights, atol=1e-3)


def test_missing_landmarks_and_pictures_are_named(faces, tmp_path):
    write_jd(tmp_path / "set", faces[:2])
    label = tmp_path / "set" / "landmark" / f"{faces[0].name}.txt"
    picture = tmp_path / "set" / "picture" / faces[1].name
    content = label.read_text()
    label.unlink()
    with pytest.raises(DataError, match=f"no landmark file for picture {faces[0].name}"):
        read_annotations(tmp_path / "set")
    label.write_text(content)
    picture.unlink()
    with pytest.raises(DataError, match=f"no picture for {faces[1].name}"):
        read_annotations(tmp_path / "set")


def test_a_broken_picture_is_named(faces, tmp_path):
    write_jd(tmp_path / "set", faces[:1])
    (tmp_path / "set" / "picture" / faces[0].name).write_bytes(b"not a picture")
    (item,) = read_annotations(tmp_path / "set")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        item.face()


def test_lapa_layout(faces, jd_folder, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "images").symlink_to(jd_folder / "picture")
    (tmp_path / "train" / "landmarks").symlink_to(jd_folder / "landmark")
    found = read_annotations(tmp_path)
    assert len(found) == len(faces)
    np.testing.assert_allclose(found[0].box, official_box(found[0].points))


def test_ibug_folder_has_partial_weights(faces, jd_folder, tmp_path):
    convert(jd_folder, tmp_path / "pts", "ibug68", "pts")
    for file in (jd_folder / "picture").iterdir():
        (tmp_path / "pts" / file.name).symlink_to(file)
    found = read_annotations(tmp_path / "pts")
    assert {item.scheme for item in found} == {"ibug68"}
    face = found[0].face()
    assert face.weights.sum() == 84
    true = next(f for f in faces if f.name == face.name)
    error = np.linalg.norm(face.points - true.points, axis=1)[face.weights > 0]
    assert error.max() < 0.05 * np.ptp(true.points, axis=0).max()
    (tmp_path / "pts" / found[0].name).unlink()
    with pytest.raises(DataError, match="no picture"):
        read_annotations(tmp_path / "pts")


@pytest.mark.parametrize(
    ("kind", "scheme", "name"), [("wflw", "wflw98", "list.txt"), ("coco", "jd106", "a.json")]
)
def test_lists_round_trip(kind, scheme, name, jd_folder, tmp_path):
    if kind == "wflw":  # its pictures lie beside the list; COCO's are named from there
        for file in (jd_folder / "picture").iterdir():
            (tmp_path / file.name).symlink_to(file)
    convert(jd_folder, tmp_path / name, scheme, kind)
    original = {item.name: item for item in read_annotations(jd_folder)}
    found = read_annotations(tmp_path / name)
    assert len(found) == len(original)
    for item in found:
        true = original[item.name.partition("_")[2]]
        points, weights = item.jd
        assert weights.sum() == (100 if kind == "wflw" else 106)
        np.testing.assert_allclose(points[:33], true.points[:33], atol=1e-3)
        np.testing.assert_allclose(item.box, true.box, atol=0.51)
        assert item.face().image.ndim == 3


def test_labels_named_after_the_whole_picture_are_found(faces, tmp_path):
    """As `predict --format pts` and `convert` write them, where a.jpg and a.png lie side by side."""
    write_jd(
        tmp_path / "jd", [replace(faces[n], name=f"a{suffix}") for n, suffix in enumerate((".jpg", ".png"))]
    )
    convert(tmp_path / "jd", tmp_path / "pts", "jd106", "pts")
    for file in (tmp_path / "jd" / "picture").iterdir():
        (tmp_path / "pts" / file.name).symlink_to(file)
    found = read_annotations(tmp_path / "pts")
    assert [item.name for item in found] == ["a.jpg", "a.png"]
    for item, face in zip(found, faces, strict=False):
        np.testing.assert_allclose(item.points, face.points, atol=1e-3)


def test_a_failed_write_leaves_nothing(faces, tmp_path):
    with pytest.raises(DataError, match="two pictures would be called"):
        write_jd(tmp_path / "new", [faces[0], faces[0]])
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="two pictures would be called"):
        write_jd(tmp_path / "there", [faces[0], faces[0]])
    assert [*(tmp_path / "there").iterdir()] == []


def test_wflw_lines_are_checked(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("1 2 3 a.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt:1: expected 206 numbers"):
        read_annotations(path)


def test_coco_is_checked(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="not COCO keypoints"):
        read_annotations(path)
    annotation = {"id": 7, "image_id": 1, "keypoints": [1, 2, 2] * 5}
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [annotation]}))
    with pytest.raises(DataError, match="annotation 7"):
        read_annotations(path)


def test_formats_that_cannot_leave_points_out_refuse(jd_folder, tmp_path):
    convert(jd_folder, tmp_path / "pts", "ibug68", "pts")
    for file in (jd_folder / "picture").iterdir():
        (tmp_path / "pts" / file.name).symlink_to(file)
    with pytest.raises(DataError, match="22 of 106"):
        convert(tmp_path / "pts", tmp_path / "out", "jd106", "txt")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="has 106 points"):
        convert(jd_folder, tmp_path / "out.json", "jd106", "coco", scheme_from="wflw98")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_annotations(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no labelled face"):
        read_annotations(tmp_path)


def test_official_boxes_have_the_measured_spread(shape):
    rng = np.random.default_rng(0)
    true = enclosing_box(shape)
    drawn = np.stack([jitter_box(shape, None, rng) for _ in range(4000)])
    size = true[2:] - true[:2]
    widths, heights = ((drawn[:, 2:] - drawn[:, :2]) / size).T
    shift = ((drawn[:, :2] + drawn[:, 2:]) / 2 - (true[:2] + true[2:]) / 2) / size
    assert widths.mean() == pytest.approx(1.21, abs=0.01)
    assert widths.std() == pytest.approx(0.08, abs=0.01)
    assert heights.mean() == pytest.approx(1.49, abs=0.01)
    assert heights.std() == pytest.approx(0.13, abs=0.01)
    np.testing.assert_allclose(shift.mean(0), [0.005, -0.107], atol=0.01)
    np.testing.assert_allclose(official_box(shape), drawn.mean(0), atol=1)


@pytest.mark.parametrize("side", [24.0, 64.0, 200.0, 413.7])
def test_crops_show_the_right_region(side):
    """A bright dot is found in the crop where the map of points says."""
    image = np.zeros((500, 600, 3), np.uint8)
    dot = np.array([[[310.0, 243.0]]], np.float32)
    cv2.circle(image, (310, 243), max(2, round(side / 20)), (255, 255, 255), -1)
    square = np.array([[300.3 - side / 3, 240.7 - side / 3, side]], np.float32)
    crop = crop_squares(image, square, 64)[0].astype(float).mean(-1)
    where = np.array([(crop.sum(0) * np.arange(64)).sum(), (crop.sum(1) * np.arange(64)).sum()]) / crop.sum()
    expected = to_square(dot, square)[0, 0] * 64 - 0.5
    np.testing.assert_allclose(where, expected, atol=0.3)
    np.testing.assert_allclose(from_square(to_square(dot, square), square), dot, atol=1e-3)


def test_crops_beyond_the_picture_are_black():
    image = np.full((50, 50, 3), 200, np.uint8)
    boxes = np.array([[-500, -500, -400, -400], [-20, -20, 30, 30]], np.float32)
    crops = crop_squares(image, square_boxes(boxes), 16)
    assert crops[0].max() == 0
    assert crops[1][:5].max() == 0
    assert crops[1][-3:, -3:].min() == 200


def test_turned_views_are_held_out_with_their_photograph(faces, tmp_path):
    names = [f"face{number}{turned}.jpg" for number in range(6) for turned in ("", "_turned1")]
    write_jd(tmp_path / "set", [replace(face, name=name) for face, name in zip(faces, names, strict=True)])
    train, held = split_photos(DataSettings(path=(tmp_path / "set",), holdout=0.5))
    photographs = [{item.name.removesuffix(".jpg").split("_")[0] for item in part} for part in (train, held)]
    assert not photographs[0] & photographs[1]
    assert sorted(len(part) % 2 for part in (train, held)) == [0, 0]
    assert all(photographs)
