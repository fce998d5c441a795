"""Measure what damping guidance over long jumps does to the student that ships.

    python benchmarks/distill_guidance.py [--record]

Prints the mean squared distance to the teacher's 50 steps from the same noise, by guidance (as a multiple of
the student's own) and steps, with guidance at full strength and damped. A minute on one thread.
"""

import torch
from bench import Figures, describe_machine, make_parser

from mmtoolkit.distill.data.synthetic import make_shapes
from mmtoolkit.distill.evaluation.metrics import trajectory_error
from mmtoolkit.distill.models.pixel import load_pixel_student
from mmtoolkit.distill.sampling.generate import student_samples, teacher_samples

PICTURES = 48


def main() -> None:
    figures = Figures(make_parser(__doc__).parse_args().record)
    torch.set_num_threads(1)
    denoiser, targets = load_pixel_student("shapes", None, torch.device("cpu"))
    condition = {"tokens": denoiser.spec.tokens(make_shapes(PICTURES, seed=5)[1])}
    noise = torch.randn(PICTURES, *denoiser.shape, generator=torch.Generator().manual_seed(1))
    print(describe_machine("1 thread", f"{PICTURES} pictures\n"))
    print("| guidance | steps | at full strength | damped |\n|---|---|---|---|")
    for guidance in (1.5, 2.0, 3.0):
        with denoiser.teacher():
            wanted = teacher_samples(denoiser, condition, noise, guidance=guidance * (1 + targets.guidance))
        for steps in (1, 2, 4, 8):
            found = [
                student_samples(
                    denoiser,
                    condition,
                    noise,
                    steps=steps,
                    training_steps=targets.training_steps,
                    guidance=guidance,
                    damped=is_damped,
                )
                for is_damped in (False, True)
            ]
            full, damped = (float(trajectory_error(one, wanted)) for one in found)
            print(f"| {guidance:g}x | {steps} | {full:.4f} | {damped:.4f} |", flush=True)
            about = f"distance to the 50 steps of the teacher, {steps} steps, guidance {guidance:g}x"
            what = f"{about}, damped (full strength {full:.4g})"
            figures.add(f"distill.damped.{guidance:g}x.{steps}", damped, what=what, unit="absolute")


if __name__ == "__main__":
    main()
