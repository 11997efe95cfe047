"""GPT-2 (Radford et al. 2019, table 2, section 2.3): four sizes, 512 sequences of 1,024 tokens.

python run.py --config=configs/gpt2.py:355m --config.data.source=tfds:c4/en

Sizes are named after the published checkpoints (the paper prints 117M, 345M, 762M and 1542M). The
vocabulary is padded to a multiple of 128. The paper gives no learning rates and no training length:
here they are those of the nearest GPT-3 size and its 300B tokens. There is no dropout.
"""

from ml_collections import ConfigDict

from configs import accelerator

# Size: (layers, width, heads, learning rate).
SIZES = {
    '124m': (12, 768, 12, 6e-4),
    '355m': (24, 1024, 16, 3e-4),
    '774m': (36, 1280, 20, 2.5e-4),
    '1_5b': (48, 1600, 25, 2e-4),
}


def get_config(size: str = '124m') -> ConfigDict:
    layers, width, heads, learning_rate = SIZES[size]
    config = accelerator.get_config()
    config.name = f'gpt2_{size}'
    config.model.update(layers=layers, width=width, heads=heads, context=1024)
    config.model.update(vocab_size=50_257, vocab_multiple=128)
    config.data.tokenizer = 'bpe:50257'
    config.optimizer.update(learning_rate=learning_rate, weight_decay=0.1, warmup_fraction=0.002)
    config.train.update(batch_size=512, tokens=300_000_000_000)
    return config
