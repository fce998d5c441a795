"""Labelled faces: what they are, and how they are read and written."""

from mmtoolkit.landmarks.data.face import Face, enclosing_box, jitter_box, official_box

__all__ = ["Face", "enclosing_box", "jitter_box", "official_box"]
