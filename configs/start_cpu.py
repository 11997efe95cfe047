"""What the tasks of configs/finetune/ begin with where nothing can be fetched: 0.8M parameters, minutes, two cores.

python run.py --config=configs/start_cpu.py --config.model.context=192 --workdir=runs/tiny_192

More and smaller steps than gpt_tiny's, and today's parts (configs/generations_cpu.py), which need fewer of them to make
use of what is far back in a text. Longer contexts want smaller batches, as the files there say: as many steps.
"""

from ml_collections import ConfigDict

from configs import cpu


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'start_cpu'
    config.model.update(layers=4, width=128, heads=4, context=256)
    config.model.update(position='rotary', norm='rms', feedforward='gated', activation='silu', bias=False)
    config.model.update(qk_norm=True, z_loss=1e-4)
    config.update_from_flattened_dict(cpu.rule(4, 128, 4))
    config.optimizer.learning_rate /= 2  # as for today's parts there
    config.train.tokens = 2_500_000
    return config
