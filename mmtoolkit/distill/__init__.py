"""Target-Driven Distillation: a diffusion model that draws in 4 to 8 steps.

Wang et al., "Target-Driven Distillation: Consistency Distillation with Target Timestep Selection and
Decoupled Guidance", arXiv 2409.01347.
"""
