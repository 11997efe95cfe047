"""GPT-3 (Brown et al. 2020, table 2.1, section 2.1, appendix B): eight sizes, 300B tokens.

python run.py --config=configs/gpt3.py:350m --config.data.source=tfds:c4/en

Differences from the paper: the batch does not grow over the first 4 to 12B tokens, and is rounded
to a multiple of 16 sequences. Every layer has full attention; the paper alternates dense and
locally banded layers without giving the width of the band. For a band of 256, add:

--config.model.attention_pattern="('full','window')" --config.model.window=256
--config.model.scan_layers=False

For the 13B model the paper prints a width of 5,140; its 40 heads of 128 and the total in table D.1
imply 5,120.
"""

from ml_collections import ConfigDict

from configs import accelerator

CONTEXT, TOKENS = 2_048, 300_000_000_000
# Size: (layers, width, heads, tokens per batch, learning rate).
SIZES = {
    '125m': (12, 768, 12, 500_000, 6e-4),
    '350m': (24, 1024, 16, 500_000, 3e-4),
    '760m': (24, 1536, 16, 500_000, 2.5e-4),
    '1_3b': (24, 2048, 16, 1_000_000, 2e-4),
    '2_7b': (32, 2560, 32, 1_000_000, 1.6e-4),
    '6_7b': (32, 4096, 32, 2_000_000, 1.2e-4),
    '13b': (40, 5120, 40, 2_000_000, 1e-4),
    '175b': (96, 12288, 96, 3_200_000, 0.6e-4),
}


def get_config(size: str = '125m') -> ConfigDict:
    layers, width, heads, batch_tokens, learning_rate = SIZES[size]
    config = accelerator.get_config()
    config.name = f'gpt_{size}'
    config.model.update(layers=layers, width=width, heads=heads, vocab_size=50_257, context=CONTEXT)
    config.data.tokenizer = 'bpe:50257'
    config.optimizer.update(
        learning_rate=learning_rate,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        grad_clip_norm=1.0,
        warmup_fraction=375e6 / TOKENS,
        decay_end_fraction=260e9 / TOKENS,
        final_lr_fraction=0.1,
    )
    config.train.update(batch_size=round(batch_tokens / CONTEXT / 16) * 16, tokens=TOKENS)
    return config
