"""Measure what damping guidance over long jumps does to the student that ships.

    python benchmarks/distill_guidance.py

Told: the mean squared distance to the teacher's 50 steps from the same noise, by guidance (as a multiple of
the student's own) and steps, with guidance at full strength and damped. A minute on one thread.
"""

import torch

from mmtoolkit.core.run import environment
from mmtoolkit.distill.data.synthetic import make_shapes
from mmtoolkit.distill.evaluation.metrics import trajectory_error
from mmtoolkit.distill.models.pixel import load_pixel_student
from mmtoolkit.distill.sampling.generate import student_samples, teacher_samples

PICTURES = 48


def main() -> None:
    torch.set_num_threads(1)
    denoiser, targets = load_pixel_student("shapes", None, torch.device("cpu"))
    condition = {"tokens": denoiser.spec.tokens(make_shapes(PICTURES, seed=5)[1])}
    noise = torch.randn(PICTURES, *denoiser.shape, generator=torch.Generator().manual_seed(1))
    print(f"{environment()['cpu']}, 1 thread, {PICTURES} pictures\n")
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
                    damped=damped,
                )
                for damped in (False, True)
            ]
            errors = [f"{trajectory_error(one, wanted):.4f}" for one in found]
            print(f"| {guidance:g}x | {steps} | {' | '.join(errors)} |", flush=True)


if __name__ == "__main__":
    main()
