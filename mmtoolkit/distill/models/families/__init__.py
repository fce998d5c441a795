"""Families of latent diffusion models: SD 1.5, SDXL, SD 3 and FLUX, from any checkpoint with their layout.

One class, :class:`LatentDenoiser`, serves all four. The table :data:`FAMILIES` has their differences: names
of parts, arguments of the network, and what encoding a prompt returns.
"""

from mmtoolkit.distill.models.families.autoencoder import Autoencoder
from mmtoolkit.distill.models.families.family import FAMILIES, Family
from mmtoolkit.distill.models.families.latent import LatentDenoiser, load_latent, lora_ranks
from mmtoolkit.distill.models.families.prompts import encode_in_parts, encode_prompts
from mmtoolkit.distill.models.families.source import Source

__all__ = [
    "FAMILIES",
    "Autoencoder",
    "Family",
    "LatentDenoiser",
    "Source",
    "encode_in_parts",
    "encode_prompts",
    "load_latent",
    "lora_ranks",
]
