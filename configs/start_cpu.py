"""A base model of 0.8M parameters for configs/finetune/, trained without any download.

python run.py --config=configs/start_cpu.py --config.model.context=192 --workdir=runs/tiny_192

This takes minutes on two cores. It makes more and smaller steps than gpt_tiny and has a modern
architecture (see configs/generations_cpu.py), which learns to use distant text in fewer steps.
Longer contexts need smaller batches (see the task files) to keep the number of steps.
"""

from ml_collections import ConfigDict

from configs import cpu


def get_config() -> ConfigDict:
    config = cpu.get_config()
    config.name = 'start_cpu'
    config.model.update(layers=4, width=128, heads=4, context=256)
    config.model.update(
        position='rotary', norm='rms', feedforward='gated', activation='silu', bias=False
    )
    config.model.update(qk_norm=True, z_loss=1e-4)
    config.update_from_flattened_dict(cpu.rule(4, 128, 4))
    config.optimizer.learning_rate /= 2  # as in configs/generations_cpu.py
    config.train.tokens = 2_500_000
    return config
