"""gpt_jax: scaling experiments for GPTs in JAX/Flax (plan -> sweep -> fit -> forecast -> verify)."""

__version__ = '0.1.0'
