"""What GPT-3's eight sizes share (Brown et al. 2020, section 2.1 and appendix B).

Not modelled: the gradual growth of the batch in the first 4 to 12B tokens, and the sparse attention of every other
layer. A batch is rounded to a multiple of 16 sequences of 2,048 tokens.
"""

from ml_collections import ConfigDict

from configs import base

CONTEXT = 2_048
TOKENS = 300_000_000_000


def config(name: str, *, layers: int, width: int, heads: int, batch_tokens: int, learning_rate: float) -> ConfigDict:
    config = base.get_config()
    config.name = name
    config.model.update(layers=layers, width=width, heads=heads, vocab_size=50_257, context=CONTEXT)
    config.model.update(activation_dtype='bfloat16', matmul_dtype='bfloat16', scan_layers=True, remat='block')
    config.model.update(loss_chunk=256, attention_chunk=512)
    config.data.tokenizer = 'bpe:50257'
    config.optimizer.update(learning_rate=learning_rate, weight_decay=0.1, beta1=0.9, beta2=0.95, clip=1.0)
    config.optimizer.update(warmup_fraction=375e6 / TOKENS, decay_fraction=260e9 / TOKENS, final_fraction=0.1)
    config.train.update(batch=round(batch_tokens / CONTEXT / 16) * 16, microbatch=1, tokens=TOKENS)
    config.train.update(log_every=10, evaluate_every=1000, evaluate_tokens=10_000_000, evaluate_batch=16)
    config.mesh.update(strategy='fsdp', data=1, fsdp=0)
    return config
