"""Sampling with a LoRA file."""

import json

import pytest
import torch
from safetensors.torch import save_file


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
