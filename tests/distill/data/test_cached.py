"""Caches of latents and prompt embeddings."""

import json
import shutil

import pytest
import torch
from PIL import Image

from mmtoolkit.core.errors import CheckpointError, ConfigError, DataError, UsageError
from mmtoolkit.distill.cache import open_cache, write_cache
from mmtoolkit.distill.data import cached
from mmtoolkit.distill.data.read import fit_square
from mmtoolkit.distill.models.families import Autoencoder, Source


def test_a_stopped_cache_continues_to_the_same_bits(settings_for, captions, tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "SHARD", 2)
    settings = settings_for("sd15", "data.flip=true").settings
    whole = write_cache(settings, tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len([name for name in names if name.startswith("latents")]) == 3
    assert whole.prompts == sorted(set(captions))
    write_cache(settings, tmp_path / "cut")
    for name in ("latents-00001.safetensors", "text-00001.safetensors", "empty.safetensors"):
        (tmp_path / "cut" / name).unlink()
    with pytest.raises(DataError, match=r"not finished \(3 files are missing"):
        open_cache(tmp_path / "cut")
    write_cache(settings, tmp_path / "cut")
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = torch.arange(5)
    latents, condition = whole.batch(rows)
    assert latents.shape == (5, 4, 8, 8)
    assert len(whole) == 10
    mirrored, same = whole.batch(rows + 5)
    assert torch.equal(same["text"], condition["text"])
    assert not torch.allclose(mirrored, latents)
    assert torch.equal(whole.batch(rows + 5)[0], mirrored)
    assert torch.equal(condition["text"][0], condition["text"][2])
    assert not torch.equal(condition["text"][0], condition["text"][1])


def test_a_cache_of_something_else_is_refused(settings_for, tmp_path):
    settings = settings_for("sd15").settings
    write_cache(settings, tmp_path / "cache")
    with pytest.raises(UsageError, match=r"another size \(16, now 32\)"):
        write_cache(settings_for("sd15", "data.size=32").settings, tmp_path / "cache")
    with pytest.raises(ConfigError, match="was made for sd15"):
        open_cache(tmp_path / "cache", settings_for("sdxl").settings)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "x").write_text("x")
    with pytest.raises(UsageError, match="already there and not empty"):
        write_cache(settings, tmp_path / "file")


@pytest.mark.parametrize("name", ["cache.json", "empty.safetensors", "latents-00000.safetensors"])
def test_a_damaged_cache_is_one_line(name, trained, tmp_path):
    folder = shutil.copytree(trained("sd15") / "cache", tmp_path / "cache")
    for damaged in (b"{ damaged", b"{}"):
        (folder / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name}: .*damaged"):
            open_cache(folder).batch(torch.arange(1))


def test_pictures_without_texts_are_conditioned_on_nothing(settings_for, tmp_path):
    examples = write_cache(settings_for("sdxl", "data.condition=none").settings, tmp_path / "cache")
    _, condition = examples.batch(torch.tensor([0, 1]))
    assert not condition["text"].any()
    assert not condition["pooled"].any()


def test_latents_are_the_pictures(settings_for, tmp_path, pictures):
    """A decoded cache row lies as near to its picture as the autoencoder's own round trip."""
    settings = settings_for("sd3").settings
    examples = write_cache(settings, tmp_path / "cache")
    latents, _ = examples.batch(torch.tensor([1]))
    source = Source.open(settings.model.base, "sd3")
    pixels = torch.from_numpy(fit_square(Image.open(pictures / "1.png"), 16).copy())
    batch = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
    vae = source.vae()
    mean = (vae.encode(batch).latent_dist.mean - 0.06) * 1.5
    spread = vae.encode(batch).latent_dist.std * 1.5
    assert ((latents - mean).abs() < 6 * spread).all()
    assert Autoencoder(source, 16).shape == (4, 8, 8)


def test_cache_and_export_through_the_command_line(mmtk, trained, tmp_path, tiny_pipeline, pictures):
    asked = [
        "-s",
        "model.family=sd15",
        "--base",
        tiny_pipeline("sd15"),
        "--data",
        pictures,
        "--device",
        "cpu",
    ]
    asked += ["-o", tmp_path / "cache", "-q"]
    facts = json.loads(mmtk("distill", "cache", *asked, "-n", "--json").stdout)
    assert (facts["pictures"], facts["prompts"], facts["size"], facts["latents"]) == (5, 4, 16, "4 x 8 x 8")
    assert not (tmp_path / "cache").exists()
    assert "5 pictures, 4 prompts" in mmtk("distill", "cache", *asked).stdout
    printed = json.loads(mmtk("distill", "cache", *asked, "--json").stdout)
    assert printed == {
        "command": "distill cache",
        "pictures": 5,
        "prompts": 4,
        "files": [str(tmp_path / "cache")],
    }
    run, target = trained("sd15"), tmp_path / "lora.safetensors"
    given = ["--checkpoint", run, "--format", "kohya", "-o", target, "-q"]
    assert "max error" in mmtk("distill", "export", *given).stdout
    refused = mmtk("distill", "export", *given)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    base = ["--base", tiny_pipeline("sd15"), "--family", "sd15"]
    other = tmp_path / "other.safetensors"
    shown = mmtk("distill", "export", "--checkpoint", target, *base, "-o", other, "--json", "-q")
    assert json.loads(shown.stdout)["files"] == [str(other)]
    assert json.loads(shown.stdout)["metrics"]["max_error"] < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--base", "nowhere/at/all"], "no such folder or file, and not a hub id"),
        (["--data", "nowhere"], "no such file or folder"),
        ([], "model.base: name the sd15 checkpoint"),
    ],
)
def test_bad_cache_arguments_are_one_line(changes, message, mmtk, tmp_path, pictures, tiny_pipeline):
    data = [] if "--data" in changes else ["--data", pictures]
    base = ["--base", tiny_pipeline("sd15")] if "--data" in changes else []
    asked = ["-s", "model.family=sd15", *data, *base, *changes, "-o", tmp_path / "cache"]
    result = mmtk("distill", "cache", *asked)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
    assert not (tmp_path / "cache").exists()


def test_unreadable_pictures_are_named(mmtk, tmp_path, tiny_pipeline):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    (folder / "a.txt").write_text("a dog")
    asked = ["-s", "model.family=sd15", "--base", tiny_pipeline("sd15"), "--data", folder, "-q"]
    result = mmtk("distill", "cache", *asked, "-o", tmp_path / "cache")
    assert result.exit_code == 2
    assert "a.png" in result.stderr
    assert not (tmp_path / "cache").exists()
    (folder / "a.txt").unlink()
    result = mmtk("distill", "cache", *asked, "-o", tmp_path / "other", "-s", "data.condition=caption")
    assert "has no caption a.txt" in result.stderr
