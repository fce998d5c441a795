"""Denoisers, LoRA and the losses; `families` are the latent diffusion models."""
