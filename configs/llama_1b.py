"""Llama 3.2 1B (meta-llama/Llama-3.2-1B, config.json, 2024), vocabulary of 128,256.

python run.py --config=configs/llama_1b.py --config.data.source=tfds:c4/en

The published model was pruned and distilled from a larger one, which is not reproduced here;
learning rate and schedule are those of the 8B model (Grattafiori et al. 2024, section 3.4.1, table
3). The rotary scaling covers 131,072 tokens: a `model.context` of up to that needs no other change.
"""

from ml_collections import ConfigDict

from configs import accelerator


def get_config() -> ConfigDict:
    config = accelerator.get_config()
    config.name = 'llama_1b'
    config.model.update(layers=16, width=2048, heads=32, kv_heads=8, mlp_width=8192)
    config.model.update(vocab_size=128_256, context=8192)
    config.model.update(accelerator.modern(rotary_base=500_000.0, epsilon=1e-5))
    config.model.update(rotary_scaling='llama3', rotary_factor=32.0, rotary_original_context=8192)
    config.data.tokenizer = 'bpe:128256'
    config.optimizer.update(learning_rate=3e-4, warmup_fraction=0.007, final_lr_fraction=0.01)
    config.train.update(batch_size=512, tokens=1_000_000_000_000)
    return config
