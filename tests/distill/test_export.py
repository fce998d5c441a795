"""Students written for other programs come back in stock pipelines."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmtoolkit.core.config import resolve, set_layers
from mmtoolkit.core.errors import RunError, UsageError
from mmtoolkit.distill.cache import open_cache
from mmtoolkit.distill.config import DistillSettings
from mmtoolkit.distill.export import _TOLERANCE, export, kohya_layout
from mmtoolkit.distill.load import FACTS, open_student
from mmtoolkit.distill.models.families import FAMILIES as TABLE
from mmtoolkit.distill.models.families import load_latent, lora_ranks
from mmtoolkit.distill.models.lora import Lora, LoraLayer, layer_shapes

FAMILIES = ["sd15", "sdxl", "sd3", "flux"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_comes_back_in_a_stock_pipeline(draw, stock, family, trained, tiny_pipeline, tmp_path):
    run = trained(family)
    assert (run / "samples" / "000002.png").is_file()
    student = open_student(run, None, None)
    plain, other = tmp_path / "student.safetensors", tmp_path / "kohya.safetensors"
    for form, path in (("diffusers", plain), ("kohya", other), ("merged", tmp_path / "merged")):
        result = export(student, form, path, "float32")
        assert result.error <= 1e-6 * result.largest or form == "kohya"
        assert result.largest > 0
    base = draw(stock(tiny_pipeline(family)), family)
    pipeline = stock(tiny_pipeline(family))
    pipeline.load_lora_weights(tmp_path, weight_name=plain.name)
    wanted = draw(pipeline, family)
    assert np.abs(wanted - base).max() > 1e-3
    merged = stock(tmp_path / "merged")
    merged.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    assert np.abs(draw(merged, family) - wanted).max() < 1e-3
    if family in (
        "sd15",
        "sdxl",
    ):  # Diffusers reads no kohya files of SD 3, and of FLUX at its own size alone
        pipeline = stock(tiny_pipeline(family))
        pipeline.load_lora_weights(tmp_path, weight_name=other.name)
        assert np.abs(draw(pipeline, family) - wanted).max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stock_pipeline_predicts_what_the_trained_student_predicts(
    stock, family, trained, tiny_pipeline, tmp_path
):
    run = trained(family)
    export(open_student(run, None, None), "diffusers", tmp_path / "x.safetensors", "float32")
    settings = resolve(DistillSettings, set_layers([f"model.family={family}", "model.rank=4"])).settings
    model = settings.model.model_copy(update={"base": str(tiny_pipeline(family))})
    examples = open_cache(run / "cache")
    settings = settings.model_copy(update={"model": model})
    student = load_latent(settings, 16, examples.no_prompt, torch.device("cpu"))
    clean, condition = examples.batch(torch.tensor([0, 3]))
    t = torch.tensor([999, 499])
    pipeline = stock(tiny_pipeline(family))
    pipeline.load_lora_weights(tmp_path, weight_name="x.safetensors")
    weights = load_file(run / "checkpoints" / "last" / "model.safetensors")
    student.adapt(settings.model)
    with torch.no_grad():
        for name, parameter in student.trainable().items():
            parameter.copy_(weights[name])
        found = student.predict(clean, t, condition)
        student.network = getattr(pipeline, student.family.part)
        torch.testing.assert_close(student.predict(clean, t, condition), found, atol=1e-5, rtol=1e-4)


def test_flux_in_kohyas_layout_is_what_diffusers_reads():
    """At FLUX's own width, the only one that Diffusers' converter knows."""
    from diffusers import FluxTransformer2DModel
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    shapes = layer_shapes(network)
    lora = Lora(
        {
            name: LoraLayer(torch.randn(2, shapes[name][1]), torch.randn(shapes[name][0], 2), alpha=1.0)
            for name in lora_ranks(network, TABLE["flux"], 2)
        },
        {},
    )
    tensors, _ = kohya_layout(lora, TABLE["flux"], network)
    found = _convert_kohya_flux_lora_to_diffusers(dict(tensors))
    assert len(found) == 2 * len(lora.layers)
    for name, layer in lora.layers.items():
        down, up = (found[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
        rows = slice(0, 64)
        torch.testing.assert_close(up[rows] @ down, 0.5 * layer.up[rows] @ layer.down)


def test_metadata_says_how_the_student_was_made(trained, tmp_path):
    from safetensors import safe_open

    for form in ("diffusers", "kohya"):
        export(open_student(trained("sdxl"), None, None), form, tmp_path / form)
        with safe_open(tmp_path / form, "pt") as stream:
            facts = json.loads(stream.metadata()[FACTS])
            assert stream.get_tensor(next(iter(stream.keys()))).dtype in (torch.float16, torch.float32)
        assert (facts["guidance"], facts["drop"], facts["eta"]) == (3.5, 0.2, 0.0)
        assert (facts["steps_min"], facts["steps_max"], facts["training_steps"]) == (4, 8, 250)
        assert facts["alpha"] == facts["rank"] == 4


def test_an_exported_file_keeps_what_it_says(trained, tiny_pipeline, tmp_path):
    """In a folder, too, and exported once more, it says how it was made."""
    base = str(tiny_pipeline("sd15"))
    (tmp_path / "lora").mkdir()
    export(open_student(trained("sd15"), None, None), "diffusers", tmp_path / "lora" / "x.safetensors")
    first = open_student(tmp_path / "lora", base, "sd15")
    export(first, "kohya", tmp_path / "second.safetensors")
    second = open_student(tmp_path / "second.safetensors", base, "sd15")
    assert first.facts == second.facts
    assert (second.facts["guidance"], second.facts["training_steps"]) == (3.5, 250)


def test_a_lora_is_scaled(trained, tiny_pipeline, tmp_path, caplog, mmtk):
    """Its change is multiplied; nothing is said of a missing alpha, as the user has said the scale."""
    base = str(tiny_pipeline("sd15"))
    weights = load_file(trained("sd15") / "checkpoints/last/model.safetensors")
    save_file({k: torch.randn_like(v) for k, v in weights.items()}, tmp_path / "lora.safetensors")
    with caplog.at_level(logging.WARNING, "mmtoolkit"):
        student = open_student(tmp_path / "lora.safetensors", base, "sd15", lora_scale=0.125)
        network = student.source.empty_network()
        scaled = student.lora(network).layers
        assert "alpha" not in caplog.text
    for name, layer in open_student(tmp_path / "lora.safetensors", base, "sd15").lora(network).layers.items():
        torch.testing.assert_close(scaled[name].delta(), 0.125 * layer.delta())
    whole, half = (open_student(trained("sd15"), None, None, lora_scale=s).lora(network) for s in (None, 0.5))
    assert all(half.layers[name].alpha == layer.alpha / 2 for name, layer in whole.layers.items())
    arguments = ["--checkpoint", tmp_path / "lora.safetensors", "--base", base, "--family", "sd15"]
    arguments += ["--prompt", "a cat", "--count", "1", "--steps", "1", "--no-grid", "--lora-scale", "0.5"]
    drawn = mmtk("distill", "sample", *arguments, "-o", tmp_path / "x", "--json", "-q")
    assert json.loads(drawn.stdout)["settings"]["lora_scale"] == 0.5
    assert drawn.stderr == ""


def test_a_file_that_reads_back_wrong_is_not_left(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(_TOLERANCE, "float16", 0.0)
    student = open_student(trained("sd15"), None, None)
    with pytest.raises(RunError, match="deleted; use `precision` float32"):
        export(student, "kohya", tmp_path / "x.safetensors", "float16")
    assert not (tmp_path / "x.safetensors").exists()


def test_export_refuses_what_it_cannot_do(trained, tmp_path):
    student = open_student(trained("sd15"), None, None)
    (tmp_path / "there").write_text("x")
    with pytest.raises(UsageError, match="already there"):
        export(student, "kohya", tmp_path / "there")
    with pytest.raises(UsageError, match="name `base` and `family`"):
        open_student(tmp_path / "there", None, None)
