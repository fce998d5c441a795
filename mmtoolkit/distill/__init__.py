"""Target-Driven Distillation: a diffusion model that draws in 4 to 8 steps.

Wang et al., "Target-Driven Distillation: Consistency Distillation with Target Timestep Selection and
Decoupled Guidance", arXiv 2409.01347.
"""

from typing import TYPE_CHECKING

from mmtoolkit.core.lazy import export as _export

if TYPE_CHECKING:
    from mmtoolkit.distill.cache import write_cache as write_cache
    from mmtoolkit.distill.compare import Comparison as Comparison
    from mmtoolkit.distill.compare import compare as compare
    from mmtoolkit.distill.config import DistillSettings as DistillSettings
    from mmtoolkit.distill.evaluate import evaluate as evaluate
    from mmtoolkit.distill.export import ExportResult as ExportResult
    from mmtoolkit.distill.export import export as export
    from mmtoolkit.distill.load import load as load
    from mmtoolkit.distill.report import Evaluation as Evaluation
    from mmtoolkit.distill.report import TeachResult as TeachResult
    from mmtoolkit.distill.report import TrainResult as TrainResult
    from mmtoolkit.distill.sample import Samples as Samples
    from mmtoolkit.distill.sample import SampleSettings as SampleSettings
    from mmtoolkit.distill.sample import sample as sample
    from mmtoolkit.distill.sample import write_samples as write_samples
    from mmtoolkit.distill.sampling.scheduler import TDDFlowScheduler as TDDFlowScheduler
    from mmtoolkit.distill.sampling.scheduler import TDDScheduler as TDDScheduler
    from mmtoolkit.distill.teach import teach as teach
    from mmtoolkit.distill.train import train as train

__all__ = _export(  # noqa: PLE0605
    __name__,
    {
        "Comparison": "compare",
        "DistillSettings": "config",
        "Evaluation": "report",
        "ExportResult": "export",
        "SampleSettings": "sample",
        "Samples": "sample",
        "TDDFlowScheduler": "sampling.scheduler",
        "TDDScheduler": "sampling.scheduler",
        "TeachResult": "report",
        "TrainResult": "report",
        "compare": "compare",
        "evaluate": "evaluate",
        "export": "export",
        "load": "load",
        "sample": "sample",
        "teach": "teach",
        "train": "train",
        "write_cache": "cache",
        "write_samples": "sample",
    },
)
