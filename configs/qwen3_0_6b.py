"""Qwen 3 0.6B (Yang et al. 2025, table 1; Qwen/Qwen3-0.6B): QK norm, heads of 128.

python run.py --config=configs/qwen3_0_6b.py --config.data.source=tfds:c4/en

Of its recipe, the 4,096 tokens per sequence (section 3.2) and the 30T tokens of the first stage are
published; this config trains on 1T. Learning rate and tokens per batch are those of
configs/llama_1b.py.
"""

from ml_collections import ConfigDict

from configs import accelerator


def get_config() -> ConfigDict:
    config = accelerator.get_config()
    config.name = 'qwen3_0_6b'
    config.model.update(
        layers=28, width=1024, heads=16, kv_heads=8, head_dim=128, mlp_width=3072, context=4096
    )
    config.model.update(accelerator.modern(rotary_base=1e6, epsilon=1e-6))
    config.model.update(qk_norm=True, vocab_size=151_936)
    config.data.tokenizer = 'bpe:151936'
    config.optimizer.update(learning_rate=3e-4, warmup_fraction=0.007, final_lr_fraction=0.01)
    config.train.update(batch_size=1024, tokens=1_000_000_000_000)
    return config
