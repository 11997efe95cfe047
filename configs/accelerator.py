"""What models for accelerators share: bfloat16, layers in one loop and recomputed, weights spread over all devices."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model.update(activation_dtype='bfloat16', matmul_dtype='bfloat16', scan_layers=True, remat='block')
    config.model.update(loss_chunk=256, attention_chunk=512)
    config.train.update(microbatch=1, log_every=10, evaluate_every=1000)
    config.train.update(evaluate_tokens=10_000_000, evaluate_batch=16)
    config.mesh.update(strategy='fsdp', data=1, fsdp=0)
    return config


def modern(*, rotary_base: float, epsilon: float) -> dict[str, object]:
    """Llama's parts and those of all that follow it: RMS norms, turned positions, SwiGLU, no biases."""
    return {
        'norm': 'rms', 'norm_epsilon': epsilon, 'position': 'rotary', 'rotary_base': rotary_base,
        'feedforward': 'gated', 'activation': 'silu', 'bias': False,
    }  # fmt: skip
