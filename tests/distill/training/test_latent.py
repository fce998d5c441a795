"""Training of latent students: memory, dry runs and interrupted caches."""

import gc
import sys

import pytest

from mmtoolkit.core.errors import ConfigError
from mmtoolkit.core.run import RunDirectory
from mmtoolkit.distill.cache import write_cache
from mmtoolkit.distill.data import cached
from mmtoolkit.distill.train import train
from mmtoolkit.distill.training.describe import describe_work
from mmtoolkit.distill.training.memory import expected_memory
from mmtoolkit.distill.training.state import set_up


def test_a_dry_run_needs_no_cache(settings_for, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = describe_work(settings_for("flux").settings)
    assert (facts["examples"], facts["prompts"], facts["size"]) == (5, 4, 16)
    assert facts["expected_memory_gb"] == pytest.approx(0.001, abs=0.01)
    assert not list(tmp_path.iterdir())


def test_neither_autoencoder_nor_text_encoders_are_held_while_training(trained, settings_for, captions):
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    def held():
        gc.collect()
        return sum(type(one) in (AutoencoderKL, CLIPTextModel) for one in gc.get_objects())

    resolved = settings_for("sd15", f"data.path={trained('sd15') / 'cache'}")
    before = held()
    training = set_up(resolved.settings, None)
    assert len(training.examples) == len(captions)
    assert held() == before


def test_a_run_stopped_while_it_caches_is_resumed_to_the_same_bits(settings_for, tmp_path, monkeypatch):
    cache = sys.modules[write_cache.__module__]
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
    monkeypatch.setattr(sys.modules[expected_memory.__module__], "free_memory", lambda _: 1000)
    resolved = settings_for("sd15")
    with pytest.raises(ConfigError, match=r"this needs about .* GB free"):
        train(resolved.settings, RunDirectory.new(tmp_path / "run", resolved.to_yaml()))
    assert not (tmp_path / "run").exists()
