"""Which of two answers is better? Preferences in files of yours, as in HH-RLHF (Bai et al. 2022), told apart.

python run.py --config=configs/finetune/preference_files.py --config.init_from=runs/gpt2

A line is {"prompt": "\\n\\nHuman: Hi\\n\\nAssistant:", "chosen": " Hello!", "rejected": " Go away."}: what both
dialogues share, and what they do not; TFDS has it not. `rows`, of which the steps are reckoned, are to be yours.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('preference_files', rows=40_000, context=512, epochs=1)
    config.task.update(kind='prefer', source='files:preferences/*.jsonl', prompt='{prompt}')
    config.task.update(chosen='{chosen}', rejected='{rejected}', beta=0.1)
    config.optimizer.learning_rate = 1e-6
    return config
