"""The schedulers in stock pipelines of Diffusers."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmtoolkit.distill.config import TargetSettings
from mmtoolkit.distill.export import export
from mmtoolkit.distill.load import open_student
from mmtoolkit.distill.sample import SampleSettings, _damping, _scheduler
from mmtoolkit.distill.sampling.generate import step_guidance
from mmtoolkit.distill.sampling.scheduler import TDDFlowScheduler, TDDScheduler


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_a_pipeline_weakens_guidance_step_by_step(draw, stock, family, tiny_pipeline):
    """The scale that it combines the two predictions with follows :func:`step_guidance`."""
    pipeline = stock(tiny_pipeline(family))
    scheduler = _scheduler(pipeline, family == "sd3", TargetSettings(), SampleSettings())
    pipeline.scheduler = scheduler
    call, seen = _damping(scheduler, 3.0, 4), []
    after = call.pop("callback_on_step_end")

    def watch(pipe, step, timestep, values):
        seen.append(pipe.guidance_scale)
        return after(pipe, step, timestep, values)

    draw(pipeline, family, steps=4, guidance=call["guidance_scale"], callback_on_step_end=watch)
    assert seen == step_guidance(scheduler.levels, scheduler.grid, 3.0, damped=True)
    assert 1 < min(seen) < max(seen) < 3


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_scheduler_runs_in_stock_pipelines(draw, stock, family, trained, tiny_pipeline, tmp_path):
    """Text to image, image to image and inpaint, with the exported LoRA."""
    import diffusers

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
    draw, stock, family, trained, tiny_pipeline, tmp_path
):
    """As documented: Diffusers' TCDScheduler with 250 original steps draws from a student made here."""
    from diffusers import TCDScheduler

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
def test_stock_flow_pipelines_take_the_grid_as_sigmas(draw, stock, family, trained, tiny_pipeline, tmp_path):
    """As documented: unshifted sigmas (t + 1) / 1000 of the grid draw what our flow scheduler draws."""
    export(open_student(trained(family), None, None), "diffusers", tmp_path / "x.safetensors")
    pipeline = stock(tiny_pipeline(family))
    pipeline.load_lora_weights(tmp_path, weight_name="x.safetensors")
    theirs = draw(pipeline, family, steps=4, sigmas=[1.0, 0.752, 0.5, 0.252])
    pipeline.scheduler = TDDFlowScheduler.from_config(pipeline.scheduler.config)
    assert np.abs(draw(pipeline, family, steps=4) - theirs).max() < 1e-4
