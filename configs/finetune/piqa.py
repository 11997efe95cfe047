"""Which of two ways reaches the goal? PIQA (Bisk et al. 2020).

python run.py --config=configs/finetune/piqa.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('piqa', rows=16_113, context=256)
    config.task.update(kind='choose', source='tfds:piqa', prompt='{goal}', choices=(' {sol1}', ' {sol2}'))
    config.task.update(label='label', auxiliary=0.5)
    return config
