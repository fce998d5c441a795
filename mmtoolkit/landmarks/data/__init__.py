"""Labelled faces: what they are, and how they are read and written."""

from mmtoolkit.landmarks.data.face import Face, enclosing_box, jitter_box, official_box
from mmtoolkit.landmarks.data.read import Annotation, read_annotations
from mmtoolkit.landmarks.data.write import write_jd

__all__ = [
    "Annotation",
    "Face",
    "enclosing_box",
    "jitter_box",
    "official_box",
    "read_annotations",
    "write_jd",
]
