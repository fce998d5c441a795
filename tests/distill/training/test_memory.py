import pytest
import torch

from mmtoolkit.core.errors import ConfigError
from mmtoolkit.distill.config import DistillSettings, ModelSettings, TrainSettings

FAMILIES = ["sd15", "sdxl", "sd3", "flux"]


def settings_of(family, **model):
    train = TrainSettings(ema=model.pop("ema", 0.95))
    return DistillSettings(model=ModelSettings(family=family, rank=4, **model), train=train)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_the_loaded_model(family, tiny_pipeline):
    from mmtoolkit.distill.models.families import LatentDenoiser, Source
    from mmtoolkit.distill.training.memory import expected_memory

    source = Source.open(str(tiny_pipeline(family)), family)
    settings = settings_of(family)
    parts = expected_memory(settings, source, 16, 2)
    network = source.network(torch.float32)
    assert parts["base weights"] == 4 * sum(p.numel() for p in network.parameters())
    denoiser = LatentDenoiser(source, network, 16, {})
    denoiser.adapt(settings.model)
    optimizer = torch.optim.AdamW(denoiser.trainable().values())
    for parameter in denoiser.trainable().values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    trained = sum(p.numel() for p in denoiser.trainable().values())
    held = (value for state in optimizer.state.values() for value in state.values() if value.dim())
    assert parts["trained weights"] == parts["gradients"] == parts["average"] == 4 * trained
    assert parts["optimizer"] == 4 * sum(value.numel() for value in held)


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_what_autograd_keeps(family, tiny_pipeline):
    """Count on the meta device what a real forward pass keeps, up to what attention kernels keep."""
    from torch.autograd.graph import saved_tensors_hooks

    from mmtoolkit.distill.models.families import LatentDenoiser, Source, encode_prompts
    from mmtoolkit.distill.training.memory import expected_memory

    source = Source.open(str(tiny_pipeline(family)), family)
    condition, empty = encode_prompts(source, ["a", "b"], "float32", torch.device("cpu"))
    denoiser = LatentDenoiser(source, source.network(torch.float32), 16, empty)
    denoiser.adapt(ModelSettings(rank=4))
    seen = {p.untyped_storage().data_ptr() for p in denoiser.own.parameters()}
    kept = []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = denoiser.predict(torch.randn(2, *denoiser.shape), torch.tensor([9, 99]), condition)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept)
    assert output.requires_grad
    expected = expected_memory(settings_of(family), source, 16, 2)["activations"]
    tokens = {"sd15": 77, "sdxl": 77, "sd3": 77 + 256, "flux": 512}[family] / condition["text"].shape[1]
    assert real * min(1, tokens) / 1.3 < expected < 1.3 * real * max(1, tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_keeps_less(family, tiny_pipeline):
    from mmtoolkit.distill.models.families import Source
    from mmtoolkit.distill.training.memory import expected_memory

    source = Source.open(str(tiny_pipeline(family)), family)
    usual = expected_memory(settings_of(family), source, 32, 2)
    less = expected_memory(settings_of(family, checkpointing=True), source, 32, 2)
    assert 0 < less.pop("activations") < usual.pop("activations")
    assert less == usual


def test_all_weights_and_no_average(tiny_pipeline):
    from mmtoolkit.distill.models.families import Source
    from mmtoolkit.distill.training.memory import expected_memory

    source = Source.open(str(tiny_pipeline("sd15")), "sd15")
    parts = expected_memory(settings_of("sd15", adapter="full", ema=0), source, 16, 1)
    assert parts["trained weights"] == parts["base weights"]
    assert parts["average"] == 0


def test_too_little_memory_is_said_before_anything_is_loaded():
    from mmtoolkit.distill.training.memory import check_memory, free_memory

    cpu = torch.device("cpu")
    check_memory({"base weights": 1000}, cpu)
    free = free_memory(cpu)
    assert free is not None
    assert free > 1e8
    with pytest.raises(ConfigError) as caught:
        check_memory({"base weights": 10**15, "average": 10}, cpu)
    assert "about 1000000.0 GB (base weights 1000000.0), cpu has" in caught.value.message
    assert "model.checkpointing=true" in caught.value.message
