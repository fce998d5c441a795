"""Every latent family goes through cache, train and export, and comes back in a stock pipeline."""

import gc
import json
import logging
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmtoolkit.core.config import resolve, set_layers
from mmtoolkit.core.errors import CheckpointError, ConfigError, DataError, RunError, UsageError
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.config import DistillSettings

FAMILIES = ["sd15", "sdxl", "sd3", "flux"]
CAPTIONS = ["a red dog", "a blue cat", "a red dog", "a green bird", "a cat"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number, caption in enumerate(CAPTIONS):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def settings_for(tiny_pipeline, pictures):
    def make(family, *changes):
        words = [
            f"model.family={family}",
            f"model.base={tiny_pipeline(family)}",
            f"data.path={pictures}",
            "data.size=16",
            "device=cpu",
            "model.rank=4",
            "train.steps=2",
            "train.batch_size=2",
            "train.sample_every=2",
            "train.warmup=0",
            "train.learning_rate=0.01",
        ]
        return resolve(DistillSettings, set_layers([*words, *changes]))

    return make


@pytest.fixture(scope="module")
def trained(settings_for, tmp_path_factory):
    """Return the run of a family's student, cached and trained once a module."""
    from mmtoolkit.distill.train import train

    made = {}

    def make(family):
        if family not in made:
            resolved = settings_for(family)
            run = RunDirectory.new(tmp_path_factory.mktemp(family) / "run", resolved.to_yaml())
            train(resolved.settings, run)
            made[family] = run.path
        return made[family]

    return make


def stock(folder, **parts):
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, family, steps=2, guidance=1.0, **more):
    if family in ("sd3", "flux"):
        more["max_sequence_length"] = 16
    more["guidance_scale"] = 3.5 if family == "flux" else guidance
    size = {"height": 16, "width": 16, "num_inference_steps": steps, "output_type": "np"}
    generator = torch.Generator().manual_seed(0)
    return pipeline("a red dog", generator=generator, **size, **more).images[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_comes_back_in_a_stock_pipeline(family, trained, tiny_pipeline, tmp_path):
    from mmtoolkit.distill.export import export
    from mmtoolkit.distill.load import open_student

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
    family, trained, tiny_pipeline, tmp_path
):
    from mmtoolkit.distill.cache import open_cache
    from mmtoolkit.distill.export import export
    from mmtoolkit.distill.load import open_student
    from mmtoolkit.distill.models.families import load_latent

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

    from mmtoolkit.distill.export import kohya_layout
    from mmtoolkit.distill.models.families import FAMILIES as TABLE
    from mmtoolkit.distill.models.families import lora_ranks
    from mmtoolkit.distill.models.lora import Lora, LoraLayer, layer_shapes

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

    from mmtoolkit.distill.export import export
    from mmtoolkit.distill.load import FACTS, open_student

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
    from mmtoolkit.distill.export import export
    from mmtoolkit.distill.load import open_student

    base = str(tiny_pipeline("sd15"))
    (tmp_path / "lora").mkdir()
    export(open_student(trained("sd15"), None, None), "diffusers", tmp_path / "lora" / "x.safetensors")
    first = open_student(tmp_path / "lora", base, "sd15")
    export(first, "kohya", tmp_path / "again.safetensors")
    second = open_student(tmp_path / "again.safetensors", base, "sd15")
    assert first.facts == second.facts
    assert (second.facts["guidance"], second.facts["training_steps"]) == (3.5, 250)


@pytest.mark.parametrize(
    ("facts", "steps", "message"),
    [
        ({"training_steps": 50}, 51, "--steps 51: this student knows 50 at most"),
        ({"training_steps": "many"}, 1, "states training_steps: input should be a valid integer"),
        ("{", 1, "damaged"),
    ],
)
def test_what_a_lora_says_is_checked_before_the_pipeline_is_made(
    facts, steps, message, tiny_pipeline, tmp_path, mmtk
):
    text = facts if isinstance(facts, str) else json.dumps(facts)
    save_file({"x": torch.zeros(1)}, tmp_path / "lora.safetensors", {"mmtoolkit.distill": text})
    base = ["--base", tiny_pipeline("sd15"), "--family", "sd15", "--prompt", "a", "--steps", str(steps)]
    arguments = ["--checkpoint", tmp_path / "lora.safetensors", *base, "-o", tmp_path / "out"]
    done = mmtk("distill", "sample", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_lora_is_scaled(trained, tiny_pipeline, tmp_path, caplog, mmtk):
    """Its change is multiplied; nothing is said of a missing alpha, as the user has said the scale."""
    from mmtoolkit.distill.load import open_student

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


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_a_pipeline_weakens_guidance_step_by_step(family, tiny_pipeline):
    """The scale that it combines the two predictions with follows :func:`step_guidance`."""
    from mmtoolkit.distill.config import TargetSettings
    from mmtoolkit.distill.sample import SampleSettings, _damping, _scheduler
    from mmtoolkit.distill.sampling.generate import step_guidance

    pipeline = stock(tiny_pipeline(family))
    scheduler = _scheduler(pipeline, family == "sd3", TargetSettings(), SampleSettings())
    pipeline.scheduler = scheduler
    call, seen = _damping(scheduler, 3.0, 4), []
    after = call.pop("callback_on_step_end")

    def watch(pipe, step, time, values):
        seen.append(pipe.guidance_scale)
        return after(pipe, step, time, values)

    draw(pipeline, family, steps=4, guidance=call["guidance_scale"], callback_on_step_end=watch)
    assert seen == step_guidance(scheduler.levels, scheduler.grid, 3.0, damped=True)
    assert 1 < min(seen) < max(seen) < 3


def test_clip_scores_a_text_model(trained, tiny_clip, tmp_path):
    from mmtoolkit.distill.evaluate import evaluate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        features = torch.jit.trace(torch.nn.AdaptiveAvgPool2d(2), torch.zeros(2, 3, 16, 16))
        features.save(str(tmp_path / "four.pt"))
    settings = ["samples=8", "steps=[1]", "eta=[0]", "guidance=[1]", f"features={tmp_path / 'four.pt'}"]
    changes = [f"evaluate.{one}" for one in (*settings, f"clip={tiny_clip}")]
    found = evaluate(trained("sd15"), set_layers(changes))
    scores = [found.cells[0].metrics["clip_score"], found.teacher[4.5]["clip_score"]]
    assert all(0 <= score <= 1 for score in scores)


def test_a_file_that_reads_back_wrong_is_not_left(trained, tmp_path, monkeypatch):
    from importlib import import_module

    from mmtoolkit.distill.load import open_student

    engine = import_module("mmtoolkit.distill.export")
    monkeypatch.setitem(engine._TOLERANCE, "float16", 0.0)
    student = open_student(trained("sd15"), None, None)
    with pytest.raises(RunError, match="deleted; use `precision` float32"):
        engine.export(student, "kohya", tmp_path / "x.safetensors", "float16")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_dry_run_needs_no_cache(settings_for, tmp_path, monkeypatch):
    from mmtoolkit.distill.training.describe import describe_work

    monkeypatch.chdir(tmp_path)
    facts = describe_work(settings_for("flux").settings)
    assert (facts["examples"], facts["prompts"], facts["size"]) == (5, 4, 16)
    assert facts["expected_memory_gb"] == pytest.approx(0.001, abs=0.01)
    assert not list(tmp_path.iterdir())


def test_export_refuses_what_it_cannot_do(trained, tmp_path):
    from mmtoolkit.distill.export import export
    from mmtoolkit.distill.load import open_student

    student = open_student(trained("sd15"), None, None)
    (tmp_path / "there").write_text("x")
    with pytest.raises(UsageError, match="already there"):
        export(student, "kohya", tmp_path / "there")
    with pytest.raises(UsageError, match="name `base` and `family`"):
        open_student(tmp_path / "there", None, None)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_scheduler_runs_in_stock_pipelines(family, trained, tiny_pipeline, tmp_path):
    """Text to image, image to image and inpaint, with the exported LoRA."""
    import diffusers

    from mmtoolkit.distill.export import export
    from mmtoolkit.distill.load import open_student
    from mmtoolkit.distill.sampling.scheduler import TDDScheduler

    export(open_student(trained(family), None, None), "diffusers", tmp_path / "x.safetensors")
    pipeline = stock(tiny_pipeline(family))
    pipeline.load_lora_weights(tmp_path, weight_name="x.safetensors")
    pipeline.scheduler = TDDScheduler.from_config(pipeline.scheduler.config)
    seen = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(int(given[1])))
    text = draw(pipeline, family, steps=4, eta=0.3)
    assert seen == [999, 751, 499, 251]
    picture = Image.new("RGB", (16, 16), "red")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    for kind, given in (
        ("AutoPipelineForImage2Image", {"image": picture, "strength": 0.5}),
        ("AutoPipelineForInpainting", {"image": picture, "mask_image": mask, "strength": 1.0}),
    ):
        seen.clear()
        other = getattr(diffusers, kind).from_pipe(pipeline)
        other.set_progress_bar_config(disable=True)
        size = {} if "Image2Image" in kind else {"height": 16, "width": 16}
        found = other(
            "a red dog", num_inference_steps=4, guidance_scale=1.0, eta=0.3, output_type="np", **size, **given
        ).images[0]
        assert found.shape == text.shape
        assert np.isfinite(found).all()
        assert seen == ([499, 251] if "Image2Image" in kind else [999, 751, 499, 251])
    hook.remove()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_tcd_recipe_samples_like_our_scheduler_up_to_the_last_step(
    family, trained, tiny_pipeline, tmp_path
):
    """As documented: Diffusers' TCDScheduler with 250 original steps draws from a student made here."""
    from diffusers import TCDScheduler

    from mmtoolkit.distill.export import export
    from mmtoolkit.distill.load import open_student
    from mmtoolkit.distill.sampling.scheduler import TDDScheduler

    export(open_student(trained(family), None, None), "diffusers", tmp_path / "x.safetensors")
    pipeline = stock(tiny_pipeline(family))
    pipeline.load_lora_weights(tmp_path, weight_name="x.safetensors")
    config, drawn, last = pipeline.scheduler.config, {}, {}
    for kind, extra in ((TCDScheduler, {"original_inference_steps": 250}), (TDDScheduler, {})):
        pipeline.scheduler = kind.from_config(config, **extra)
        kept = []

        def keep(*given, kept=kept):
            kept.append((int(given[2]), given[3]["latents"].clone()))
            return given[3]

        drawn[kind] = draw(pipeline, family, steps=4, eta=0.0, callback_on_step_end=keep)
        last[kind] = kept
    times = [[time for time, _ in kept] for kept in last.values()]
    assert times[0] == times[1] == [999, 751, 499, 251]
    for (_, theirs), (_, ours) in list(zip(*last.values(), strict=True))[:3]:
        torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)
    assert np.abs(drawn[TCDScheduler] - drawn[TDDScheduler]).max() < 0.05


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_stock_flow_pipelines_take_the_grid_as_sigmas(family, trained, tiny_pipeline, tmp_path):
    """As documented: unshifted sigmas (t + 1) / 1000 of the grid draw what our flow scheduler draws."""
    from mmtoolkit.distill.export import export
    from mmtoolkit.distill.load import open_student
    from mmtoolkit.distill.sampling.scheduler import TDDFlowScheduler

    export(open_student(trained(family), None, None), "diffusers", tmp_path / "x.safetensors")
    pipeline = stock(tiny_pipeline(family))
    pipeline.load_lora_weights(tmp_path, weight_name="x.safetensors")
    theirs = draw(pipeline, family, steps=4, sigmas=[1.0, 0.752, 0.5, 0.252])
    pipeline.scheduler = TDDFlowScheduler.from_config(pipeline.scheduler.config)
    assert np.abs(draw(pipeline, family, steps=4) - theirs).max() < 1e-4


def test_neither_autoencoder_nor_text_encoders_are_held_while_training(trained, settings_for):
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    from mmtoolkit.distill.training.state import set_up

    def held():
        gc.collect()
        return sum(type(one) in (AutoencoderKL, CLIPTextModel) for one in gc.get_objects())

    resolved = settings_for("sd15", f"data.path={trained('sd15') / 'cache'}")
    before = held()
    training = set_up(resolved.settings, None)
    assert len(training.examples) == len(CAPTIONS)
    assert held() == before


def test_a_stopped_cache_continues_to_the_same_bits(settings_for, tmp_path, monkeypatch):
    from mmtoolkit.distill import cache
    from mmtoolkit.distill.data import cached

    monkeypatch.setattr(cached, "SHARD", 2)
    settings = settings_for("sd15", "data.flip=true").settings
    whole = cache.write_cache(settings, tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len([name for name in names if name.startswith("latents")]) == 3
    assert whole.prompts == sorted(set(CAPTIONS))
    cache.write_cache(settings, tmp_path / "cut")
    for name in ("latents-00001.safetensors", "text-00001.safetensors", "empty.safetensors"):
        (tmp_path / "cut" / name).unlink()
    with pytest.raises(DataError, match=r"not finished \(3 files are missing"):
        cache.open_cache(tmp_path / "cut")
    cache.write_cache(settings, tmp_path / "cut")
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


def test_a_run_stopped_while_it_caches_is_resumed_to_the_same_bits(settings_for, tmp_path, monkeypatch):
    from mmtoolkit.distill import cache
    from mmtoolkit.distill.data import cached
    from mmtoolkit.distill.train import train

    monkeypatch.setattr(cached, "SHARD", 2)
    resolved = settings_for("sd15")
    train(resolved.settings, RunDirectory.new(tmp_path / "whole", resolved.to_yaml()))
    encode = cache._encode_shard

    def stop(autoencoder, pictures, rows, *others):
        if rows.start:
            raise KeyboardInterrupt
        return encode(autoencoder, pictures, rows, *others)

    monkeypatch.setattr(cache, "_encode_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        train(resolved.settings, RunDirectory.new(tmp_path / "cut", resolved.to_yaml()))
    monkeypatch.setattr(cache, "_encode_shard", encode)
    train(resolved.settings, RunDirectory.open(tmp_path / "cut"), resume=True)
    for name in ("model.safetensors", "state.pt"):
        file = f"checkpoints/last/{name}"
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_too_little_memory_is_said_before_anything_is_encoded(settings_for, tmp_path, monkeypatch):
    from mmtoolkit.distill.train import train
    from mmtoolkit.distill.training import memory

    monkeypatch.setattr(memory, "free_memory", lambda _: 1000)
    resolved = settings_for("sd15")
    with pytest.raises(ConfigError, match=r"this needs about .* GB free"):
        train(resolved.settings, RunDirectory.new(tmp_path / "run", resolved.to_yaml()))
    assert not (tmp_path / "run").exists()


def test_a_cache_of_something_else_is_refused(settings_for, tmp_path):
    from mmtoolkit.distill.cache import open_cache, write_cache

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
def test_a_damaged_cache_is_one_line(name, settings_for, tmp_path):
    from mmtoolkit.distill.cache import open_cache, write_cache

    write_cache(settings_for("sd15").settings, tmp_path)
    for damaged in (b"{ damaged", b"{}"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name}: .*damaged"):
            open_cache(tmp_path).batch(torch.arange(1))


def test_pictures_without_texts_are_conditioned_on_nothing(settings_for, tmp_path):
    from mmtoolkit.distill.cache import write_cache

    examples = write_cache(settings_for("sdxl", "data.condition=none").settings, tmp_path / "cache")
    _, condition = examples.batch(torch.tensor([0, 1]))
    assert not condition["text"].any()
    assert not condition["pooled"].any()


def test_latents_are_the_pictures(settings_for, tmp_path, pictures):
    """A decoded cache row lies as near to its picture as the autoencoder's own round trip."""
    from mmtoolkit.distill.cache import write_cache
    from mmtoolkit.distill.data.read import fit_square
    from mmtoolkit.distill.models.families import Autoencoder, Source

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
    again = mmtk("distill", "export", *given)
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
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
