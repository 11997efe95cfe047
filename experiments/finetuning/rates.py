"""Other learning rates for the runs from scratch at 4x96: 5 minutes on 2 cores.

python run.py --config=experiments/finetuning/rates.py --launch=local --processes=2
"""

from ml_collections import ConfigDict

from configs import finetuning_cpu

FACTORS = (0.25, 0.5, 2.0)  # of the sweep's learning rate


def get_config() -> ConfigDict:
    config = finetuning_cpu.get_config()
    config.name = 'finetuning_rates'
    scratch_trials = [
        trial
        for trial in config.sweep.trials
        if '-scratch-4x96' in trial['name'] and trial['seed'] == 0
    ]
    config.sweep.trials = tuple(
        trial
        | {
            'name': f'{trial["name"]}-times{factor:g}',
            'optimizer.learning_rate': factor * trial['optimizer.learning_rate'],
        }
        for trial in map(dict, scratch_trials)
        for factor in FACTORS
    )
    return config
