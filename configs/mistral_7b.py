"""Mistral 7B (Jiang et al. 2023, table 1): every layer has a window of 4,096 tokens.

python run.py --config=configs/mistral_7b.py --config.data.source=tfds:c4/en

Its training recipe is not published; learning rate, schedule, batch size and number of tokens are
those of Llama 2 (Touvron et al. 2023, section 2.2).
"""

from ml_collections import ConfigDict

from configs import accelerator


def get_config() -> ConfigDict:
    config = accelerator.get_config()
    config.name = 'mistral_7b'
    config.model.update(layers=32, width=4096, heads=32, kv_heads=8, mlp_width=14_336)
    config.model.update(vocab_size=32_000, context=8192)
    config.model.update(accelerator.modern(rotary_base=10_000.0, epsilon=1e-5))
    config.model.update(attention_pattern=('window',), window=4096, tied_head=False)
    config.data.tokenizer = 'bpe:32000'
    config.optimizer.update(learning_rate=3e-4, warmup_fraction=0.004)
    config.train.update(batch_size=512, tokens=2_000_000_000_000)
    return config
