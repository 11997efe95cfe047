"""nanoGPT's CPU setting on tinyshakespeare, at character level (bytes, since the text is ASCII).

python run.py --config=configs/shakespeare_char.py --config.data.source=files:input.txt
"""

from ml_collections import ConfigDict

from gpt_jax import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.name = 'shakespeare_char'
    config.model.update(layers=4, width=128, heads=4, context=64, bias=False)
    config.data.update(source='files:input.txt', holdout='tail', validation_fraction=0.1)
    config.optimizer.update(learning_rate=2e-3, beta2=0.99, warmup_fraction=0.05)
    config.train.update(batch_size=12, steps=2_000, eval_every=500, checkpoint_every=1_000)
    return config
