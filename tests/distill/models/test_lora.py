import copy
import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from mmtoolkit.core.errors import CheckpointError

FAMILIES = ["sd15", "sdxl", "sd3", "flux"]


@pytest.fixture(scope="module")
def networks(tiny_pipeline):
    """Return a family's tiny network with a random LoRA on all adapted layers."""
    from mmtoolkit.distill.models.families import Source, lora_ranks
    from mmtoolkit.distill.models.lora import Lora, LoraLayer, add_lora

    made = {}

    def make(family, alpha=2.0):
        if (family, alpha) in made:
            return made[family, alpha]
        source = Source.open(str(tiny_pipeline(family)), family)
        network = source.network(torch.float32)
        ranks = lora_ranks(network, source.family, 4)
        add_lora(network, ranks, dict.fromkeys(ranks, alpha))
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
        made[family, alpha] = source, network, Lora(collect(network, LoraLayer), {})
        return made[family, alpha]

    return make


def collect(network, kind):
    """Read the adapter's layers off a network."""
    adapted = {name: m for name, m in network.named_modules() if hasattr(m, "lora_A")}
    return {
        name: kind(
            m.lora_A.default.weight.data, m.lora_B.default.weight.data, m.scaling["default"] * m.r["default"]
        )
        for name, m in adapted.items()
    }


def largest_error(found, wanted):
    assert found.layers.keys() == wanted.layers.keys()
    return max((found.layers[n].delta() - wanted.layers[n].delta()).abs().max() for n in wanted.layers)


def old_diffusers_name(part, name):
    """Attention processors held their own layers before PEFT came."""
    head, _, tail = name.rpartition(".to_")
    if ".attn" not in name or not head:
        return f"{part}.{name}.lora"
    return f"{part}.{head}.processor.to_{tail.removesuffix('.0')}_lora"


LAYOUTS = {
    "diffusers": ("{part}.{name}.lora_A.weight", "{part}.{name}.lora_B.weight", "{part}.{name}.alpha"),
    "no prefix": ("{name}.lora_A.weight", "{name}.lora_B.weight", "{name}.alpha"),
    "old diffusers": ("{old}.down.weight", "{old}.up.weight"),
    "peft": ("base_model.model.{name}.lora_A.weight", "base_model.model.{name}.lora_B.weight"),
    "peft in memory": ("{part}.{name}.lora_A.default.weight", "{part}.{name}.lora_B.default.weight"),
    "kohya": (
        "lora_unet_{plain}.lora_down.weight",
        "lora_unet_{plain}.lora_up.weight",
        "lora_unet_{plain}.alpha",
    ),
}


def named(layout, part, lora):
    """Write a LoRA's tensors under the names of a layout."""
    tensors = {}
    for name, layer in lora.layers.items():
        words = {"part": part, "name": name, "plain": name.replace(".", "_")}
        keys = [key.format(**words, old=old_diffusers_name(part, name)) for key in LAYOUTS[layout]]
        tensors |= dict(zip(keys, (layer.down, layer.up, torch.tensor(layer.alpha)), strict=False))
    return tensors


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_reads_as_the_same_change(family, layout, networks, tmp_path, caplog):
    from mmtoolkit.distill.models.lora import read_lora

    source, _, lora = networks(family)
    tensors = named(layout, source.family.part, lora)
    file = tmp_path / "lora.safetensors"
    if layout.startswith("peft"):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2.0}))
    metadata = {"ss_network_alpha": "2.0"} if layout == "old diffusers" else {}
    save_file(tensors, file, metadata)
    with caplog.at_level(logging.WARNING, "mmtoolkit"):
        found = read_lora(tmp_path, source.empty_network())
    assert largest_error(found, lora) == 0
    assert not [record for record in caplog.records if record.name == "mmtoolkit"]


@pytest.mark.parametrize(("family", "sgm"), [("sd15", True), ("sdxl", True), ("sd3", False), ("flux", False)])
def test_the_original_codes_names_are_read(family, sgm, networks, tmp_path):
    """kohya's SDXL trainer writes `input_blocks`; FLUX and SD 3 come with query, key and value fused."""
    from mmtoolkit.distill.export import fuse
    from mmtoolkit.distill.models.layer_names import original_names
    from mmtoolkit.distill.models.lora import layer_shapes, read_lora

    source, network, lora = networks(family)
    shapes = layer_shapes(network)
    names = original_names(shapes, network)
    assert any("input_blocks" in name for name in names) == sgm
    tensors = {}
    for name, parts in names.items():
        if lora.layers.keys() & {*parts}:
            layers = {part: lora.layers[part].for_files() for part in parts}
            joined = layers[parts[0]] if len(parts) == 1 else fuse(layers, parts, shapes)
            base = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{base}.lora_down.weight"], tensors[f"{base}.lora_up.weight"] = joined.down, joined.up
            tensors[f"{base}.alpha"] = torch.tensor(joined.alpha)
    save_file(tensors, tmp_path / "kohya.safetensors")
    found = read_lora(tmp_path / "kohya.safetensors", source.empty_network())
    assert largest_error(found, lora) < 1e-5


def test_a_missing_alpha_is_said_and_means_scale_one(networks, tmp_path, caplog):
    from mmtoolkit.distill.models.lora import read_lora

    source, _, lora = networks("sd15", alpha=4.0)
    save_file(named("peft", "unet", lora), tmp_path / "lora.safetensors")
    with caplog.at_level(logging.WARNING, "mmtoolkit"):
        found = read_lora(tmp_path, source.empty_network())
    assert "says no alpha for" in caplog.text
    assert all(layer.alpha == layer.rank for layer in found.layers.values())
    caplog.clear()
    quarter = read_lora(tmp_path, source.empty_network(), scale=0.25)
    assert not [record for record in caplog.records if record.name == "mmtoolkit"]
    assert all(layer.alpha == layer.rank / 4 for layer in quarter.layers.values())


def write(tmp_path, tensors):
    file = tmp_path / "x.safetensors"
    save_file(tensors, file)
    return file


def test_a_lora_for_another_base_is_one_clear_line(networks, tmp_path):
    from mmtoolkit.distill.models.lora import read_lora

    _, _, lora = networks("sdxl")
    tensors = named("diffusers", "unet", lora)
    source, _, _ = networks("sd15")
    with pytest.raises(CheckpointError) as caught:
        read_lora(write(tmp_path, tensors), source.empty_network(), scale=1.0)
    assert "do not fit this UNet2DConditionModel" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.conv_in.weight": torch.zeros(2)}, "holds no LoRA weights"),
        ({"unet.a.to_q.lora_A.weight": torch.zeros(2, 4)}, "only half of 'a_to_q' is there"),
        ({"lora_unet_a.hada_w1_a": torch.zeros(2)}, "not plain LoRA"),
    ],
)
def test_files_that_are_no_lora(tensors, message, networks, tmp_path):
    from mmtoolkit.distill.models.lora import read_lora

    source, _, _ = networks("sd15")
    with pytest.raises(CheckpointError, match=message):
        read_lora(write(tmp_path, tensors), source.empty_network())


def test_folders_and_damaged_files(networks, tmp_path):
    from mmtoolkit.distill.models.lora import read_lora

    network = networks("sd15")[0].empty_network()
    with pytest.raises(CheckpointError, match="no such file or folder"):
        read_lora(tmp_path / "none", network)
    with pytest.raises(CheckpointError, match="holds no LoRA"):
        read_lora(tmp_path, network)
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"xyz")
    with pytest.raises(CheckpointError, match=r"holds 2 \.safetensors files; name one"):
        read_lora(tmp_path, network)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_lora(tmp_path / "a.safetensors", network)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"ss_network_alpha": "None"}, "states an alpha that is no number: None"),
        ({"lora_adapter_metadata": "{not json"}, "damaged"),
        ({"lora_adapter_metadata": "[1]"}, "not a JSON object"),
        ({"lora_adapter_metadata": '{"lora_alpha": null}'}, "states an alpha that is no number"),
    ],
)
def test_damaged_facts_of_a_lora_are_one_line(metadata, message, networks, tmp_path):
    from mmtoolkit.distill.models.lora import read_lora

    network = networks("sd15")[0].empty_network()
    file = tmp_path / "x.safetensors"
    save_file({"unet.a.to_q.lora_A.weight": torch.zeros(2, 4)}, file, metadata)
    with pytest.raises(CheckpointError, match=message):
        read_lora(file, network)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (torch.nn.Linear(6, 5), (2, 3, 6)),
        (torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (2, 4, 8, 8)),
    ],
)
def test_lean_layers_agree_with_those_of_peft(network, shape, merges, dtype, monkeypatch):
    """Outputs, gradients and W + alpha / rank B A: PEFT's layers and the changed weight are the oracles."""
    from peft import LoraConfig, inject_adapter_in_model

    from mmtoolkit.distill.models import lora_layers as lean
    from mmtoolkit.distill.models.lora import LoraLayer
    from mmtoolkit.distill.models.lora_layers import make_lean

    exact = dtype == torch.float32
    pays = lean.pays_to_merge
    monkeypatch.setattr(lean, "pays_to_merge", lambda *given: merges and pays(*given))

    torch.manual_seed(0)
    network.reset_parameters()
    layer = torch.nn.Sequential(network).to(dtype).requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=3, target_modules="0", init_lora_weights=False)
    adapted = inject_adapter_in_model(config, copy.deepcopy(layer))
    given = torch.randn(shape).to(dtype).requires_grad_()
    found = []
    for is_lean in (False, True):
        if is_lean:
            make_lean(adapted)
        matrices = [p for name, p in adapted.named_parameters() if "lora_" in name]
        with torch.autocast("cpu", dtype, enabled=not exact):
            output = adapted(given)
        assert ("Merged" in output.grad_fn.name()) == (is_lean and merges and exact)
        found.append([output, *torch.autograd.grad(output.float().square().sum(), [given, *matrices])])
    close = {"atol": 1e-5, "rtol": 1e-5} if exact else {"atol": 0.3, "rtol": 0.05}
    for usual, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, usual, **close)
    with torch.no_grad():
        (change,) = collect(adapted, LoraLayer).values()
        layer[0].weight.copy_(layer[0].weight.float() + change.delta())
    torch.testing.assert_close(layer(given), found[1][0], **close)


@pytest.mark.parametrize(("rows", "merges"), [(4, True), (3, False)])
def test_merging_must_pay_and_be_exact(rows, merges):
    """6 inputs and 12 outputs: B A costs 6 * 12 = 72 times the rank, the branch 18 times the rows."""
    from mmtoolkit.distill.models.lora_layers import pays_to_merge

    layer = torch.nn.ModuleDict({"base_layer": torch.nn.Linear(6, 12)})
    assert pays_to_merge(layer, torch.zeros(1), rows + 1) == merges
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays_to_merge(layer, torch.zeros(1), 99)
    assert not pays_to_merge(layer, torch.zeros(1).half(), 99)


def test_the_adapter_is_float32_beside_half_precision_weights(tiny_pipeline):
    from mmtoolkit.distill.models.families import Source
    from mmtoolkit.distill.models.lora import add_lora

    network = Source.open(str(tiny_pipeline("sd15")), "sd15").network(torch.bfloat16)
    add_lora(network, {"conv_in": 2}, {"conv_in": 2.0})
    kinds = {name.partition(".lora_")[1]: p.dtype for name, p in network.named_parameters()}
    assert kinds == {"": torch.bfloat16, ".lora_": torch.float32}


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e4])
def test_small_changes_survive_half_precision(size):
    from mmtoolkit.distill.models.lora import LoraLayer

    layer = LoraLayer(torch.randn(4, 8), size * torch.randn(6, 4), alpha=3.0)
    found = layer.for_files()
    assert found.alpha == found.rank
    torch.testing.assert_close(found.delta(), layer.delta(), atol=0, rtol=1e-4)
    half = LoraLayer(found.down.half(), found.up.half(), found.alpha)
    assert (half.delta() - layer.delta()).abs().max() < 2e-3 * layer.delta().abs().max()
    nothing = LoraLayer(torch.randn(4, 8), torch.zeros(6, 4), alpha=3.0)
    assert not nothing.for_files().delta().any()
