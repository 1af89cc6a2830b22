"""Networks that make rows like those they have learned from."""

from lifelong.nets.generators.diffusion import Diffusion
from lifelong.nets.generators.fidelity import Fidelity, fidelity, frechet
from lifelong.nets.generators.gan import GAN
from lifelong.nets.generators.generator import Generator, check_rows
from lifelong.nets.generators.latent_diffusion import LatentDiffusion
from lifelong.nets.generators.vae import VAE

__all__ = [
    "GAN",
    "VAE",
    "Diffusion",
    "Fidelity",
    "Generator",
    "LatentDiffusion",
    "check_rows",
    "fidelity",
    "frechet",
]
