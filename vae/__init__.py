"""Variational auto-encoders whose aggregate posterior is matched to the prior: a thin layer over `pykernels`.

Objective (7) of Mathieu et al., "Disentangling Disentanglement in Variational Autoencoders" (ICML 2019), and
its experiments. Start at `vae.experiments.pinwheel`: an experiment is one file.
"""
