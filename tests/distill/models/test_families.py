import math
import re
from contextlib import suppress

import pytest
import torch

from mmtoolkit.core.errors import CheckpointError, ConfigError
from mmtoolkit.distill.config import ModelSettings

FAMILIES = ["sd15", "sdxl", "sd3", "flux"]
CPU = torch.device("cpu")


def open_family(family, folder, size=16):
    from mmtoolkit.distill.models.families import LatentDenoiser, Source, encode_prompts

    source = Source.open(str(folder), family)
    condition, empty = encode_prompts(source, ["a red dog"], "float32", CPU)
    return LatentDenoiser(source, source.network(torch.float32), size, empty), condition


@pytest.fixture
def denoiser(request, tiny_pipeline):
    return open_family(request.param, tiny_pipeline(request.param))


def stock_step(family, folder):
    """Run one step of the stock pipeline with guidance; return the network's inputs and output."""
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    seen = []
    network = pipeline.transformer if family in ("sd3", "flux") else pipeline.unet
    network.register_forward_hook(lambda _, args, kw, out: seen.append((args, kw, out[0])), with_kwargs=True)
    kind = "true_cfg_scale" if family == "flux" else "guidance_scale"
    extra = {"negative_prompt": ""} if family == "flux" else {}
    size = {"height": 16, "width": 16, "num_inference_steps": 1, "output_type": "latent"}
    pipeline("a red dog", **{kind: 4.0}, **extra, **size)
    return pipeline, seen


@pytest.mark.parametrize("family", FAMILIES)
def test_prediction_is_what_the_stock_pipeline_computes(family, tiny_pipeline):
    from mmtoolkit.distill.models.families.family import unpack

    pipeline, seen = stock_step(family, tiny_pipeline(family))
    denoiser, condition = open_family(family, tiny_pipeline(family))
    empty = denoiser.empty(condition)
    args, kwargs, _ = seen[0]
    x = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
    time = args[1] if len(args) > 1 else kwargs["timestep"]
    if family == "flux":
        outputs = [one[2] for one in seen]
        x, time = unpack(x, torch.Size((1, 4, 8, 8))), 1000 * time
        wanted = {"cond": unpack(outputs[0], x.shape), "empty": unpack(outputs[1], x.shape)}
    else:
        nothing, something = seen[0][2].chunk(2)
        wanted = {"cond": something, "empty": nothing}
        x, time = x.chunk(2)[1], time.flatten()[-1:]
    t = (denoiser.levels.times.float() - time.float()).abs().argmin().view(1)
    assert math.isclose(denoiser.levels.times[t].item(), time.item(), rel_tol=1e-3)
    with torch.no_grad():
        for name, given in (("cond", condition), ("empty", empty)):
            found = denoiser.predict(x, t, given)
            torch.testing.assert_close(found, wanted[name], atol=2e-4, rtol=1e-3)
    assert denoiser.shape == (4, 8, 8)
    assert all(condition[name].shape == empty[name].shape for name in condition)
    del pipeline


def test_packing_is_that_of_the_pipeline():
    from diffusers import FluxPipeline

    from mmtoolkit.distill.models.families.family import pack, unpack

    x = torch.randn(2, 4, 6, 8)
    assert torch.equal(pack(x), FluxPipeline._pack_latents(x, 2, 4, 6, 8))
    assert torch.equal(unpack(pack(x), x.shape), x)


@pytest.mark.parametrize("denoiser", FAMILIES, indirect=True)
def test_the_teacher_is_the_base_and_one_copy_of_its_weights(denoiser):
    model, condition = denoiser
    x, t = torch.randn(1, *model.shape), torch.tensor([499])
    with torch.no_grad():
        base = model.predict(x, t, condition)
        count = sum(p.numel() for p in model.own.parameters())
        model.adapt(ModelSettings(rank=2))
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.normal_()
        added = sum(p.numel() for p in model.trainable().values())
        assert sum(p.numel() for p in model.own.parameters()) == count + added
        assert not torch.equal(model.predict(x, t, condition), base)
        with model.teacher():
            assert torch.equal(model.predict(x, t, condition), base)
        with suppress(KeyError), model.teacher():
            raise KeyError
        assert not torch.equal(model.predict(x, t, condition), base)
    assert all(parameter.requires_grad for parameter in model.trainable().values())
    frozen = {id(p) for p in model.own.parameters() if not p.requires_grad}
    assert frozen.isdisjoint(id(p) for p in model.trainable().values())


def test_all_weights_train_beside_an_untouched_copy(tiny_pipeline):
    model, condition = open_family("sd15", tiny_pipeline("sd15"))
    model.adapt(ModelSettings(adapter="full"))
    x, t = torch.randn(1, *model.shape), torch.tensor([499])
    base = model.predict(x, t, condition).detach()
    assert set(model.trainable()) == {f"unet.{name}" for name, _ in model.own.named_parameters()}
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.mul_(1.5)
    assert not torch.equal(model.predict(x, t, condition), base)
    with model.teacher():
        assert torch.equal(model.predict(x, t, condition), base)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_flow_levels_are_the_shifted_sigmas_of_the_sampler(family, tiny_pipeline):
    """The grid's noise levels, given to the stock pipeline as sigmas, come out of its scheduler."""
    import diffusers

    model, _ = open_family(family, tiny_pipeline(family))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
        tiny_pipeline(family), subfolder="scheduler"
    )
    grid = torch.tensor([999, 751, 499, 251])
    unshifted = ((grid + 1) / 1000).tolist()
    mu = {"mu": 0.5 + (1.15 - 0.5) * (16 - 4) / (64 - 4)} if family == "flux" else {}
    scheduler.set_timesteps(sigmas=unshifted, **mu)
    torch.testing.assert_close(model.levels.sigma[grid], scheduler.sigmas[:-1])
    torch.testing.assert_close(model.levels.times[grid], scheduler.timesteps)
    torch.testing.assert_close(model.levels.alpha + model.levels.sigma, torch.ones(1000))


@pytest.mark.parametrize("denoiser", ["sd15", "flux"], indirect=True)
def test_latents_are_scaled_and_shifted_as_the_pipeline_undoes_it(denoiser):
    model, _ = denoiser
    vae = model.source.vae()
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = model.autoencoder.encode(pictures, torch.Generator().manual_seed(0))
    posterior = vae.encode(pictures).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0))
    raw = posterior.mean + posterior.std * noise
    shift = vae.config.shift_factor or 0
    torch.testing.assert_close(latents, (raw - shift) * vae.config.scaling_factor)
    torch.testing.assert_close(model.decode(latents), vae.decode(raw)[0].clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_what_cannot_be_loaded_is_said_in_one_line(tiny_pipeline, tmp_path):
    from mmtoolkit.distill.models.families import Source

    with pytest.raises(CheckpointError, match="no such folder or file"):
        Source.open(str(tmp_path / "nowhere"), "sd15")
    with pytest.raises(ConfigError, match=r"holds a StableDiffusionXLPipeline; .*model\.family=sdxl"):
        Source.open(str(tiny_pipeline("sdxl")), "sd15")
    with pytest.raises(CheckpointError, match=r"cannot load model_index\.json"):
        Source.open(str(tmp_path), "sd15")
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(CheckpointError) as caught:
        Source.open(str(file), "sd15").network(torch.float32)
    assert "model.layout" in caught.value.hint
    assert "\n" not in caught.value.message


def single_file(folder, path):
    """Write a tiny SD 1.5 as the original code's single file."""
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file

    from mmtoolkit.distill.models.layer_names import original_names

    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    unet, text = pipeline.unet.state_dict(), pipeline.text_encoder.state_dict()
    layers = {key.rpartition(".")[0] for key in unet}
    back = {layer: name for name, (layer,) in original_names(layers, pipeline.unet).items()}
    tensors = {}
    for key, value in unet.items():
        layer, _, kind = key.rpartition(".")
        tensors[f"model.diffusion_model.{back[layer]}.{kind}"] = value
    for key, value in pipeline.vae.state_dict().items():
        name = original_vae_name(key)
        linear = ".attn_1." in name and name.endswith("weight") and ".norm." not in name
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if linear else value
    prefix = "cond_stage_model.transformer.text_model."
    tensors |= {f"{prefix}{key.removeprefix('text_model.')}": value for key, value in text.items()}
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path)


def original_vae_name(key):
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{1 - int(m[1])}.block.", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    key = re.sub(r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1.", key)
    return key.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")


def test_a_single_file_is_the_folder_that_it_was_made_from(tiny_pipeline, tmp_path):
    from mmtoolkit.distill.models.families import Source, encode_prompts

    folder = tiny_pipeline("sd15")
    single_file(folder, tmp_path / "model.safetensors")
    whole = Source.open(str(folder), "sd15")
    single = Source.open(str(tmp_path / "model.safetensors"), "sd15", layout=str(folder))
    for part in (lambda s: s.network(torch.float32), lambda s: s.vae()):
        wanted, found = (part(source).state_dict() for source in (whole, single))
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    texts = [encode_prompts(source, ["a red dog"], "float32", CPU)[0]["text"] for source in (whole, single)]
    assert torch.equal(*texts)
