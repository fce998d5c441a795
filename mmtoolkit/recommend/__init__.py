"""IGDMRec: multimodal recommendation with an item graph denoised by behaviour-conditioned diffusion.

Wu et al., "IGDMRec: Behavior Conditioned Item Graph Diffusion for Multimodal Recommendation",
arXiv 2512.19983. Importing this package loads neither torch nor NumPy; each name loads what it needs.
"""

from typing import TYPE_CHECKING

from mmtoolkit.core.lazy import export as _export

if TYPE_CHECKING:
    from mmtoolkit.recommend.compare import Comparison as Comparison
    from mmtoolkit.recommend.compare import compare as compare
    from mmtoolkit.recommend.config import RecommendSettings as RecommendSettings
    from mmtoolkit.recommend.data.dataset import Modality as Modality
    from mmtoolkit.recommend.data.dataset import RecommendData as RecommendData
    from mmtoolkit.recommend.data.read import load_data as load_data
    from mmtoolkit.recommend.data.synthetic import make_demo as make_demo
    from mmtoolkit.recommend.evaluate import Evaluation as Evaluation
    from mmtoolkit.recommend.evaluate import evaluate as evaluate
    from mmtoolkit.recommend.export import export as export
    from mmtoolkit.recommend.load import Model as Model
    from mmtoolkit.recommend.load import load as load
    from mmtoolkit.recommend.predict import predict as predict
    from mmtoolkit.recommend.prepare.config import PrepareSettings as PrepareSettings
    from mmtoolkit.recommend.prepare.prepare import prepare as prepare
    from mmtoolkit.recommend.report import TrainResult as TrainResult
    from mmtoolkit.recommend.serving.explain import Explainer as Explainer
    from mmtoolkit.recommend.serving.explain import Explanation as Explanation
    from mmtoolkit.recommend.serving.lists import Ranked as Ranked
    from mmtoolkit.recommend.serving.new_items import audience as audience
    from mmtoolkit.recommend.serving.new_items import place_items as place_items
    from mmtoolkit.recommend.serving.new_users import fold_in as fold_in
    from mmtoolkit.recommend.similar import similar as similar
    from mmtoolkit.recommend.train import train as train

__all__ = _export(  # noqa: PLE0605
    __name__,
    {
        "Comparison": "compare",
        "Evaluation": "evaluate",
        "Explainer": "serving.explain",
        "Explanation": "serving.explain",
        "Modality": "data.dataset",
        "Model": "load",
        "PrepareSettings": "prepare.config",
        "Ranked": "serving.lists",
        "RecommendData": "data.dataset",
        "RecommendSettings": "config",
        "TrainResult": "report",
        "audience": "serving.new_items",
        "compare": "compare",
        "evaluate": "evaluate",
        "export": "export",
        "fold_in": "serving.new_users",
        "load": "load",
        "load_data": "data.read",
        "make_demo": "data.synthetic",
        "place_items": "serving.new_items",
        "predict": "predict",
        "prepare": "prepare.prepare",
        "similar": "similar",
        "train": "train",
    },
)
