"""Base config of models for accelerators: bfloat16, scanned and rematerialized layers, FSDP."""

from ml_collections import ConfigDict

from gpt_jax import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.model.update(
        activation_dtype='bfloat16', matmul_dtype='bfloat16', scan_layers=True, remat='block'
    )
    config.model.update(loss_chunk=256, attention_chunk=512)
    config.train.update(microbatch_size=1, log_every=10, eval_every=1000)
    config.train.update(eval_tokens=10_000_000, eval_batch_size=16)
    config.mesh.update(strategy='fsdp', data=1, fsdp=0)
    return config


def modern(*, rotary_base: float, epsilon: float) -> dict[str, object]:
    """Return the fields of Llama-like models: RMS norm, rotary positions, SwiGLU, no biases."""
    return {
        'norm': 'rms',
        'norm_epsilon': epsilon,
        'position': 'rotary',
        'rotary_base': rotary_base,
        'feedforward': 'gated',
        'activation': 'silu',
        'bias': False,
    }
