"""Does another learning rate make the twins from scratch catch up? At 4x96; 5 minutes, two cores.

python run.py --config=experiments/finetuning/rates.py --launch=local --processes=2
"""

from ml_collections import ConfigDict

from configs import finetuning_cpu

FACTORS = (0.25, 0.5, 2.0)  # times the rate that the sweep gave them


def get_config() -> ConfigDict:
    config = finetuning_cpu.get_config()
    config.name = 'finetuning_rates'
    twins = [trial for trial in config.sweep.trials if '-scratch-4x96' in trial['name'] and trial['seed'] == 0]
    config.sweep.trials = tuple(
        trial | {'name': f'{trial["name"]}-times{factor:g}',
                 'optimizer.learning_rate': factor * trial['optimizer.learning_rate']}
        for trial in map(dict, twins) for factor in FACTORS
    )  # fmt: skip
    return config
