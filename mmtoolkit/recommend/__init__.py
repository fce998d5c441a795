"""IGDMRec: multimodal recommendation with an item graph denoised by behaviour-conditioned diffusion.

Wu et al., "IGDMRec: Behavior Conditioned Item Graph Diffusion for Multimodal Recommendation",
arXiv 2512.19983. Entry points: :func:`mmtoolkit.recommend.train.train`,
:func:`mmtoolkit.recommend.evaluation.metrics.evaluate`, :func:`mmtoolkit.recommend.predict.predict`.
"""
