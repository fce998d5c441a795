"""106-point facial landmarks with the format and protocol of the JD-landmark challenge.

Liu et al., "Grand Challenge of 106-Point Facial Landmark Localization", arXiv 1905.03469.
"""

# ruff: noqa: F401, PLE0605
from typing import TYPE_CHECKING

from mmtoolkit.core.lazy import export as _export

if TYPE_CHECKING:
    from mmtoolkit.landmarks.compare import compare
    from mmtoolkit.landmarks.complete import Completion, complete
    from mmtoolkit.landmarks.config import LandmarkSettings
    from mmtoolkit.landmarks.convert import convert
    from mmtoolkit.landmarks.data.read import read_annotations
    from mmtoolkit.landmarks.data.synthetic import render_faces
    from mmtoolkit.landmarks.data.write import write_jd
    from mmtoolkit.landmarks.detection.detect import make_detector
    from mmtoolkit.landmarks.evaluate import evaluate
    from mmtoolkit.landmarks.evaluation.bootstrap import Comparison
    from mmtoolkit.landmarks.evaluation.metrics import Evaluation
    from mmtoolkit.landmarks.export import Export, export
    from mmtoolkit.landmarks.load import Landmarker, load
    from mmtoolkit.landmarks.points import draw_numbered_points
    from mmtoolkit.landmarks.predict import predict
    from mmtoolkit.landmarks.prediction.pictures import FoundFace, Prediction
    from mmtoolkit.landmarks.profile import Profile, profile
    from mmtoolkit.landmarks.report import DetectorResult, TrainResult
    from mmtoolkit.landmarks.submit import submit
    from mmtoolkit.landmarks.train import train
    from mmtoolkit.landmarks.train_detector import train_detector

__all__ = _export(
    __name__,
    {
        "Comparison": "evaluation.bootstrap",
        "Completion": "complete",
        "DetectorResult": "report",
        "Evaluation": "evaluation.metrics",
        "Export": "export",
        "FoundFace": "prediction.pictures",
        "LandmarkSettings": "config",
        "Landmarker": "load",
        "Prediction": "prediction.pictures",
        "Profile": "profile",
        "TrainResult": "report",
        "compare": "compare",
        "complete": "complete",
        "convert": "convert",
        "draw_numbered_points": "points",
        "evaluate": "evaluate",
        "export": "export",
        "load": "load",
        "make_detector": "detection.detect",
        "predict": "predict",
        "profile": "profile",
        "read_annotations": "data.read",
        "render_faces": "data.synthetic",
        "submit": "submit",
        "train": "train",
        "train_detector": "train_detector",
        "write_jd": "data.write",
    },
)
