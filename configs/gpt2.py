"""What GPT-2's four sizes share (Radford et al. 2019, section 2.3): 1,024 tokens, 512 sequences a batch, 50,257 tokens.

The vocabulary's rows are padded to a multiple of 128. The paper gives neither rates nor the length of training: here
they are GPT-3's of the nearest size, and its 300B tokens, without dropout.
"""

from ml_collections import ConfigDict

from configs import accelerator


def config(name: str, *, layers: int, width: int, heads: int, learning_rate: float) -> ConfigDict:
    config = accelerator.get_config()
    config.name = name
    config.model.update(layers=layers, width=width, heads=heads, context=1024, vocab_size=50_257, vocab_multiple=128)
    config.data.tokenizer = 'bpe:50257'
    config.optimizer.update(learning_rate=learning_rate, weight_decay=0.1, warmup_fraction=0.002)
    config.train.update(batch=512, tokens=300_000_000_000)
    return config
