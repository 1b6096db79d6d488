"""Generators: families, networks, noise and the artifact. Pure torch, no Ray."""
