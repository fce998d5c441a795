"""A tiny shop: sales, a catalogue and photographs; and tiny encoders with random weights."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

WORDS = ["red", "blue", "green", "cup", "plate", "spoon", "big", "small", "soft", "hard"]
USERS, ITEMS = 24, 18


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 8 numbers a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("text_encoder")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    ).save_pretrained(folder)
    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes)).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def image_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of 8 numbers a picture."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = tmp_path_factory.mktemp("image_encoder")
    torch.manual_seed(2)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """sales.csv, products.csv and photos/: 24 users, 18 items, 8 sales a user and some that are filtered."""
    folder = tmp_path / "shop"
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(5)
    sales = [
        (f"u{user:02d}", f"p{item:02d}", 3 + (item + user) % 3, 1000 * time + user)
        for user in range(USERS)
        for time, item in enumerate(rng.choice(ITEMS, size=8, replace=False))
    ]
    sales += [sales[0], ("rare", "p01", 5, 1), ("u00", "odd", 5, 2), ("rare", "odd", 5, 3)]
    with (folder / "sales.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("customer", "sku", "stars", "date"), *sales])
    with (folder / "products.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sku", "title", "description", "price"))
        for item in range(ITEMS):
            words = " ".join(rng.choice(WORDS, size=3 + item % 4))
            text = ("", "") if item == 3 else (f"The {words}", f"A <b>{words}</b>,\nso it is &amp; will be")
            writer.writerow((f"p{item:02d}", *text, 9))
        writer.writerow(("unsold", "red cup", "", 1))
    for item in range(ITEMS - 2):
        pixels = rng.integers(0, 255, (12, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"p{item:02d}.png")
    (folder / "photos" / "p05.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def arguments(shop: Path, text_encoder: Path, image_encoder: Path) -> list[object]:
    """What `mmtk` gets to prepare the whole shop."""
    return [
        *("recommend", "prepare", "--interactions", shop / "sales.csv", "--items", shop / "products.csv"),
        *("--images", shop / "photos", "--text-encoder", text_encoder, "--image-encoder", image_encoder),
        *("-s", "text.batch_size=4", "-s", "image.batch_size=4", "--device", "cpu", "-q"),
    ]


@pytest.fixture
def prepared(arguments: list[object], mmtk: Callable, tmp_path: Path) -> Path:
    """The data set folder that comes out."""
    result = mmtk(*arguments, "-o", tmp_path / "set")
    assert result.exit_code == 0, result.output
    return tmp_path / "set"
