import pytest
import torch
from safetensors.torch import load_file, save_file

from mmtoolkit.core.errors import ConfigError
from mmtoolkit.distill.data.examples import PixelExamples
from mmtoolkit.distill.data.synthetic import make_shapes
from mmtoolkit.distill.evaluation import features
from mmtoolkit.distill.evaluation.clip import Clip, clip_score

CPU = torch.device("cpu")


def examples(rows=64):
    images, captions = make_shapes(rows, seed=0)
    words = sorted({word for caption in captions for word in caption.split()})
    longest = max(len(caption.split()) for caption in captions)
    tokens = torch.zeros(rows, longest).long()
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption.split())] = torch.tensor([words.index(word) + 1 for word in caption.split()])
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return PixelExamples(pictures, tokens, words=captions)


def test_own_features_are_standardised_over_the_data(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "OWN_STEPS", 3)
    data, keep = examples(), tmp_path / "features.safetensors"
    extract = features.load_features("own", data, keep, CPU)
    pictures = data.batch(torch.arange(64))[0]
    found = features.extract_all(extract, pictures)
    torch.testing.assert_close(found.mean(0), torch.zeros(48).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0), torch.ones(48).double(), atol=1e-4, rtol=0)
    monkeypatch.setattr(features, "learn_features", None)  # what is kept is used again
    kept = features.load_features("own", data, keep, CPU)
    assert torch.equal(features.extract_all(kept, pictures), found)


def test_kept_features_without_a_scale_are_learned_again(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "OWN_STEPS", 1)
    data, keep = examples(), tmp_path / "features.safetensors"
    features.load_features("own", data, keep, CPU)
    save_file({k: v for k, v in load_file(keep).items() if k not in ("mean", "spread")}, keep)
    features.load_features("own", data, keep, CPU)
    assert "spread" in load_file(keep)


def test_clip_score_is_the_cosine_of_the_whole_model(tiny_clip):
    """The model's own logits, divided by their scale, are the cosines."""
    clip = Clip(str(tiny_clip), CPU)
    texts = ["a red dog", "cat", "a very long text that is cut to what the model reads"]
    pictures = torch.rand(3, 3, 16, 16) * 2 - 1
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    spread = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    tokens = clip.tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        whole = clip.model(pixel_values=((pictures + 1) / 2 - mean) / spread, **tokens)
    wanted = whole.logits_per_image.diag() / clip.model.logit_scale.exp()
    found = (clip.pictures(pictures) * clip.texts(texts)).sum(1)
    torch.testing.assert_close(found.float(), wanted, atol=1e-5, rtol=1e-4)
    assert clip_score(clip.pictures(pictures), clip.texts(texts)) == pytest.approx(
        wanted.clamp(min=0).mean().item(), abs=1e-5
    )
    larger = torch.nn.functional.interpolate(pictures, (32, 32), mode="nearest")
    assert clip.pictures(larger).shape == (3, 16)


def test_clip_score_leaves_out_opposites():
    up = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert clip_score(up, torch.tensor([[0.6, 0.8], [-1.0, 0.0]])) == pytest.approx(0.3)


def test_no_clip_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"evaluate\.clip: .*: no CLIP in a folder") as caught:
        Clip(str(tmp_path), CPU)
    assert "\n" not in caught.value.message


def test_texts_follow_the_rows():
    data = examples(4)
    flipped = PixelExamples(data.images, data.tokens, True, data.words)
    assert flipped.texts(torch.tensor([1, 5])) == [data.words[1], data.words[1]]
