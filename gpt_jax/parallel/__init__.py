"""Mesh, logical axis rules, sharding, collectives and pipeline; independent of the model."""
