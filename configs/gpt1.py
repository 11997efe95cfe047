"""GPT-1 117M (Radford et al. 2018, section 4.1): post-norm, learning rate 2.5e-4, 100 epochs.

python run.py --config=configs/gpt1.py --config.data.source='files:books/*.txt'

An epoch is taken to be the 985M words of BooksCorpus (Zhu et al. 2015, table 2), counted as tokens;
the paper gives no number of tokens. Differences from the paper: no dropout of attention weights,
and output matrices are initialized with a smaller deviation than the others.
"""

from ml_collections import ConfigDict

from configs import accelerator

STEPS = 100 * 985_000_000 // (64 * 512)


def get_config() -> ConfigDict:
    config = accelerator.get_config()
    config.name = 'gpt1'
    config.model.update(
        layers=12, width=768, heads=12, vocab_size=40_478, vocab_multiple=128, context=512
    )
    config.model.update(
        block='post_norm', final_norm=False, dropout=0.1, scan_layers=False, remat='none'
    )
    config.data.tokenizer = 'bpe:40478'
    config.optimizer.update(learning_rate=2.5e-4, beta2=0.999, weight_decay=0.01)
    config.optimizer.update(warmup_fraction=2000 / STEPS, final_lr_fraction=0.0)
    config.train.update(batch_size=64, microbatch_size=0, steps=STEPS)
    return config
