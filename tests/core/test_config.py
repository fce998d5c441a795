from pathlib import Path
from typing import Annotated

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from mmtoolkit.core.config import (
    Layer,
    Settings,
    config_layer,
    deep_merge,
    flatten,
    idle_settings,
    nested,
    parse_layer,
    resolve,
    set_layers,
)
from mmtoolkit.core.errors import ConfigError


class Optim(Settings):
    lr: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


class Root(Settings):
    optim: Optim = Optim()
    weights: dict[str, float] = Field(default={})
    name: str = "x"


trees = st.recursive(
    st.integers(), lambda leaf: st.dictionaries(st.sampled_from("abc"), leaf, min_size=1), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abc"), trees)


@given(mappings)
def test_merging_with_nothing_or_itself_changes_nothing(a):
    assert deep_merge(a, {}) == deep_merge({}, a) == deep_merge(a, a) == a


@given(mappings, mappings, mappings)
def test_merge_is_associative(a, b, c):
    left, right = deep_merge(deep_merge(a, b), c), deep_merge(a, deep_merge(b, c))
    clash = any(
        isinstance(x.get(k), dict) != isinstance(y.get(k), dict)
        for x, y in ((a, b), (b, c), (a, c))
        for k in "abc"
        if k in x and k in y
    )
    assert clash or _has_deep_clash(a, b, c) or left == right


def _has_deep_clash(*trees):
    kinds: dict[str, set[bool]] = {}
    for tree in trees:
        for name, _ in flatten(tree):
            parts = name.split(".")
            for n in range(1, len(parts) + 1):
                kinds.setdefault(".".join(parts[:n]), set()).add(n == len(parts))
    return any(len(k) > 1 for k in kinds.values())


@given(mappings)
def test_flatten_and_nested_are_inverse(a):
    back = {}
    for name, value in flatten(a):
        back = deep_merge(back, nested(name, value))
    assert back == a


def test_later_layers_win_and_sources_are_kept():
    resolved = resolve(
        Root, [Layer("preset p", {"optim": {"lr": 0.5}, "name": "a"}), *set_layers(["optim.lr=1e-4"])]
    )
    assert resolved.settings.optim.lr == 1e-4
    assert resolved.settings.name == "a"
    assert resolved.sources == {"optim.lr": "--set", "name": "preset p"}


def test_lists_and_empty_mappings_replace():
    layers = [Layer("a", {"weights": {"x": 1}}), *set_layers(["weights={}", "optim.betas=[0.1, 0.2]"])]
    settings = resolve(Root, layers).settings
    assert settings.weights == {}
    assert settings.optim.betas == (0.1, 0.2)


def test_yaml_can_be_fed_back():
    resolved = resolve(Root, set_layers(["optim.lr=0.25", "weights.a=2"]))
    assert "lr: 0.25  # --set" in resolved.to_yaml()
    reread = resolve(Root, [parse_layer(resolved.to_yaml(), "file")]).settings
    assert reread == resolved.settings
    assert yaml.safe_load(resolved.to_yaml()) == resolved.settings.model_dump(mode="json")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("optim.lrr=1", "no such setting 'optim.lrr'; did you mean 'optim.lr'?"),
        ("lr=1", "did you mean 'optim.lr'?"),
        ("optim.lr=-1", "optim.lr: input should be greater than 0, not -1"),
        ("optim.lr=fast", "not 'fast'"),
        ("optim", "write KEY=VALUE"),
        ("optim.lr=[", "not valid YAML"),
    ],
)
def test_mistakes_are_explained(assignment, expected):
    with pytest.raises(ConfigError) as caught:
        resolve(Root, set_layers([assignment]))
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


def test_every_mistake_is_reported_at_once_with_its_line(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim:\n  lr: 0\nnam: y\n")
    with pytest.raises(ConfigError) as caught:
        resolve(Root, [config_layer("recommend", str(path))])
    lines = caught.value.message.splitlines()
    assert lines[0].startswith(f"{path}:2: optim.lr:")
    assert lines[1].startswith(f"{path}:3: no such setting 'nam'; did you mean 'name'?")


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n", "just text"])
def test_files_that_hold_no_settings_are_refused(text):
    with pytest.raises(ConfigError, match="file"):
        parse_layer(text, "file")


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'igdmrec'"):
        config_layer("recommend", "igdmrek")


class Loss(Settings):
    wing_width: float = 1.0
    weight: float = 1.0


class Net(Settings):
    seed: int = 0
    kind: str = "fan"
    loss: Loss = Loss()


def test_settings_without_effect_are_named_with_the_reason():
    read_by = {"loss.wing_": ("kind", ("mobile",)), "seed": ("command", ("train",))}
    names = ["loss.wing_width", "loss.weight", "seed"]
    assert idle_settings(Net(), names, read_by, "train") == {"loss.wing_width": "kind is fan"}
    assert idle_settings(Net(kind="mobile"), names, read_by, "eval") == {"seed": "command is eval"}
