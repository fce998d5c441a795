import json

import pytest
import yaml
from mmtoolkit.commands.config import ENGINES

from mmtoolkit.core.config import config_layer, preset_names, resolve, setting_names
from mmtoolkit.recommend.config import RecommendSettings


@pytest.mark.parametrize(("engine", "preset"), [(e, p) for e in ENGINES for p in preset_names(e)])
def test_every_preset_loads(engine, preset):
    resolve(ENGINES[engine](), [config_layer(engine, preset)])


@pytest.mark.parametrize("engine", ENGINES)
def test_every_setting_is_documented(engine):
    def check(kind):
        for name, field in kind.model_fields.items():
            assert field.description or hasattr(field.annotation, "model_fields"), name
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)

    check(ENGINES[engine]())


def test_settings_have_dotted_names():
    assert "train.learning_rate" in set(setting_names(RecommendSettings))


def test_list_names_the_presets(mmtk):
    assert json.loads(mmtk("config", "list", "--json").stdout)["presets"]["recommend"] == [
        "bpr-mf",
        "demo",
        "ease",
        "freedom",
        "igdmrec",
        "igdmrec-tuned",
        "item-knn",
        "lightgcn",
        "popularity",
        "tiny",
        "vbpr",
    ]
    assert "igdmrec" in mmtk("config", "list").stdout


def test_show_can_be_fed_back(mmtk, tmp_path):
    text = mmtk("config", "show", "recommend", "igdmrec", "-s", "train.epochs=7").stdout
    assert "epochs: 7  # --set" in text
    assert "hidden: 2000  # preset igdmrec" in text
    assert "steps: 5  # preset igdmrec" in text
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    reread = mmtk("config", "show", "recommend", path).stdout
    assert yaml.safe_load(reread) == yaml.safe_load(text)


def test_validate_and_copy(mmtk, tmp_path):
    path = tmp_path / "mine.yaml"
    assert mmtk("config", "copy", "recommend", "demo", path).exit_code == 0
    assert "valid" in mmtk("config", "validate", "recommend", path).stdout
    assert mmtk("config", "copy", "recommend", "demo", path).exit_code == 2
    path.write_text("train:\n  epoch: 3\n")
    result = mmtk("config", "validate", "recommend", path)
    assert result.exit_code == 2
    assert f"{path}:2: no such setting 'train.epoch'; did you mean 'train.epochs'?" in result.stderr


def test_unknown_engine(mmtk):
    result = mmtk("config", "show", "recomend")
    assert result.exit_code == 2
    assert "did you mean 'recommend'?" in result.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.monitor=recall@7", "add 7 to evaluate.top_k"),
        ("train.monitor=auc", "train.monitor"),
        ("diffusion.noise_scale=60", "must stay below 1"),
        ("diffusion.noise_max=1e-9", "must not be below"),
        ("data.modalities.text=0", "at least one modality"),
    ],
)
def test_contradictions_are_refused(mmtk, change, expected):
    result = mmtk("config", "show", "recommend", "-s", change)
    assert result.exit_code == 2
    assert expected in result.stderr
