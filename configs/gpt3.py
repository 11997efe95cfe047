"""What GPT-3's eight sizes share (Brown et al. 2020, section 2.1 and appendix B).

Not modelled: the gradual growth of the batch in the first 4 to 12B tokens. A batch is rounded to a multiple of 16
sequences of 2,048 tokens. In the paper layers are in turn dense and locally banded; it does not say how wide the band
is, and most who build these sizes again leave it out. With a band of 256 (pairs of layers are best not rolled up):

--config.model.attention_pattern="('full','window')" --config.model.window=256 --config.model.scan_layers=False
"""

from ml_collections import ConfigDict

from configs import accelerator

CONTEXT = 2_048
TOKENS = 300_000_000_000


def config(name: str, *, layers: int, width: int, heads: int, batch_tokens: int, learning_rate: float) -> ConfigDict:
    config = accelerator.get_config()
    config.name = name
    config.model.update(layers=layers, width=width, heads=heads, vocab_size=50_257, context=CONTEXT)
    config.data.tokenizer = 'bpe:50257'
    config.optimizer.update(learning_rate=learning_rate, weight_decay=0.1, beta1=0.9, beta2=0.95, clip=1.0)
    config.optimizer.update(warmup_fraction=375e6 / TOKENS, decay_fraction=260e9 / TOKENS, final_fraction=0.1)
    config.train.update(batch=round(batch_tokens / CONTEXT / 16) * 16, tokens=TOKENS)
    return config
