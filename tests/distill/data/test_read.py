import csv
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from mmtoolkit.core.errors import DataError
from mmtoolkit.distill.config import DataSettings
from mmtoolkit.distill.data.examples import PixelExamples, load_images
from mmtoolkit.distill.data.read import fit_square, open_pictures
from mmtoolkit.distill.data.synthetic import SHAPES, Mark, Scene, make_shapes, render, vocabulary

COLOURS = {"a.png": "red", "b.jpg": "lime", "c.webp": "blue"}


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 12), colour).save(tmp_path / name)
    return tmp_path


def opened(path, **settings):
    return open_pictures(DataSettings(path=path, **settings))


def test_captions_beside_the_pictures(folder):
    for name, colour in COLOURS.items():
        (folder / name).with_suffix(".txt").write_text(f"all {colour}\n")
    found = opened(folder)
    assert found.kind == "caption"
    assert list(found.texts) == ["all red", "all lime", "all blue"]
    assert load_images(found, 8)[0, :, 3, 3].tolist() == [255, 0, 0]


def test_classes_are_folders_and_none_is_none(tmp_path, folder):
    assert opened(folder).kind == "none"
    sorted_folder = tmp_path / "sorted"
    for name in ("cat", "dog"):
        (sorted_folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(sorted_folder / name / "1.png")
    found = opened(sorted_folder)
    assert found.kind == "class"
    assert list(found.texts) == ["cat", "dog"]
    assert opened(sorted_folder, condition="none").texts == ["", ""]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_tables(folder, kind):
    rows = [{"file_name": name, "text": colour} for name, colour in COLOURS.items()]
    stream = io.StringIO()
    if kind == "jsonl":
        stream.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        writer = csv.DictWriter(stream, ["file_name", "text"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / f"metadata.{kind}").write_text(stream.getvalue())
    found = opened(folder)
    assert (found.kind, list(found.texts)) == ("caption", list(COLOURS.values()))


def test_webdataset_shards(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "lime").save(picture, "PNG")
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:03d}.tar", "w") as tar:
            for name, content in ((f"x/{shard}.png", picture.getvalue()), (f"x/{shard}.txt", b"green")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    found = opened(tmp_path)
    assert list(found.texts) == ["green", "green"]
    assert load_images(found, 8)[1, :, 0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize(("content", "problem"), [(b"gr\xfcn", "is not UTF-8 text"), (b" \n", "is empty")])
@pytest.mark.parametrize("cut", [512 * 3 + 1, 512 * 2, 512 * 2 + 100])
def test_a_tar_that_was_cut_or_is_no_text(content, problem, cut, tmp_path):
    """Cut in a file, between two, and in the head of one."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a.png", "a.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=rf"a\.txt {problem}"):
        opened(tmp_path / "x.tar")
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:cut])
    with pytest.raises(DataError, match="unexpected end of data"):
        opened(tmp_path / "x.tar")


def test_npz(tmp_path):
    images = np.zeros((3, 16, 16, 3), np.uint8)
    images[1] = 7
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([4, 5, 4]))
    found = opened(tmp_path / "x.npz")
    assert (found.kind, list(found.texts), found.size) == ("class", ["4", "5", "4"], 16)
    assert load_images(found, 16)[1].unique().tolist() == [7]
    with pytest.raises(DataError, match="pictures are 16 x 16, the model needs 32 x 32"):
        load_images(found, 32)


def zeros(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


ARCHIVES = {
    "wide npz": {"images": zeros(2, 8, 16, 3)},
    "float npz": {"images": zeros(2, 16, 16, 3, dtype=float)},
    "other npz": {"pictures": zeros(2, 16, 16, 3)},
    "short labels": {"images": zeros(2, 16, 16, 3), "labels": zeros(3)},
}
FILES = {
    "missing caption": ("a.txt", "a"),
    "damaged picture": ("b.png", "no picture"),
    "bad line": ("metadata.jsonl", '{"file_name": "a.png", "text": "a"}\nnot json\n'),
    "bare number": ("metadata.jsonl", "5\n"),
    "missing file": ("metadata.csv", "file_name,text\na.png,x\nz.png,y\n"),
    "missing text": ("metadata.csv", "file_name,text\na.png,x\nb.png,\n"),
}


def written(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def flipped():
    whole = bytearray(written(np.savez, images=zeros(2, 16, 16, 3)))
    whole[len(whole) // 2] ^= 255
    return bytes(whole)


DAMAGED = {
    "text as npz": lambda: b"hello",
    "no zip": lambda: b"PK\x03\x04 and nothing more",
    "flipped byte": flipped,
    "cut npz": lambda: written(np.savez_compressed, images=zeros(2, 16, 16, 3))[:200],
    "npy as npz": lambda: written(np.save, zeros(2, 16, 16, 3)),
}


def broken(kind, path):
    """Make one thing wrong and return what to open."""
    if kind in ARCHIVES:
        np.savez(path / "x.npz", **ARCHIVES[kind])
        return path / "x.npz"
    if kind in DAMAGED:
        (path / "x.npz").write_bytes(DAMAGED[kind]())
        return path / "x.npz"
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(path / name)
    name, text = FILES[kind]
    (path / name).write_text(text)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("wide npz", "pictures are 8 x 16; they must be square"),
        ("float npz", "must be uint8"),
        ("other npz", "has no array 'images' \\(it has: pictures\\)"),
        ("short labels", "'labels' must have one entry a picture"),
        *((kind, "not an .npz") for kind in DAMAGED),
        ("missing caption", "b.png: has no caption b.txt beside it \\(1 of 2 pictures lack one\\)"),
        ("damaged picture", "b.png: cannot be read"),
        ("bad line", "metadata.jsonl:2: not a JSON object"),
        ("bare number", "metadata.jsonl:1: not a JSON object"),
        ("missing file", "metadata.csv:3: no file"),
        ("missing text", "metadata.csv:3: has no 'text'"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, kind, message):
    path = broken(kind, tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_images(opened(path), 16)
    assert "\n" not in caught.value.message


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no data"):
        open_pictures(DataSettings())
    with pytest.raises(DataError, match="no such file"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no pictures"):
        opened(tmp_path)
    (tmp_path / "x.md").write_text("")
    with pytest.raises(DataError, match="not a folder of pictures"):
        opened(tmp_path / "x.md")


def test_the_centre_is_cut():
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    assert np.unique(fit_square(image, 10).reshape(-1, 3), axis=0).tolist() == [[0, 0, 255]]


def test_flip_doubles_the_set():
    import torch

    images = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).byte()
    examples = PixelExamples(images, torch.zeros(2, 1).long(), flip=True)
    assert len(examples) == 4
    plain, mirrored = examples.batch(torch.tensor([1, 3]))[0]
    assert torch.equal(mirrored, plain.flip(2))


def test_shapes_are_what_their_captions_say():
    images, captions = make_shapes(300, seed=5)
    remade, same = make_shapes(300, seed=5)
    assert np.array_equal(images, remade)
    assert captions == same
    words = set(vocabulary())
    assert {word for caption in captions for word in caption.split()} <= words
    one = next(i for i, c in enumerate(captions) if "large red square" in c)
    colours = images[one].reshape(-1, 3).astype(int)
    assert ((abs(colours - (220, 40, 40)).sum(1) < 10).sum()) > 80


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_its_place_and_size(shape):
    scene = Scene((Mark(shape, "red", 16.0, 16.0, 8.0),), "white", "")
    inside = render(scene)[..., 1] < 140
    rows, columns = np.nonzero(inside)
    assert 6 <= rows.min() <= 10
    assert 21 <= rows.max() <= 26
    assert abs(columns.mean() - 15.5) < 0.6
