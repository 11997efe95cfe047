"""Llama 3.2 1B: the shape that Meta published in 2024 (meta-llama/Llama-3.2-1B, config.json), 128,256 tokens.

python run.py --config=configs/llama_1b.py --config.data.source=tfds:c4/en

Its own recipe (a larger model pruned and distilled) is not modelled; rate and schedule are those of the 8B model of
Grattafiori et al. 2024, section 3.4.1 and table 3. Positions reach 131,072 tokens: a larger `context` needs no other
change.
"""

from ml_collections import ConfigDict

from configs import accelerator


def get_config() -> ConfigDict:
    config = accelerator.get_config()
    config.name = 'llama_1b'
    config.model.update(layers=16, width=2048, heads=32, kv_heads=8, mlp_width=8192, vocab_size=128_256, context=8192)
    config.model.update(accelerator.modern(rotary_base=500_000.0, epsilon=1e-5))
    config.model.update(rotary_scaling='llama3', rotary_factor=32.0, rotary_original_context=8192)
    config.data.tokenizer = 'bpe:128256'
    config.optimizer.update(learning_rate=3e-4, warmup_fraction=0.007, final_fraction=0.01)
    config.train.update(batch=512, tokens=1_000_000_000_000)
    return config
