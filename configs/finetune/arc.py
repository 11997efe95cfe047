"""Which answer is right? Questions of science tests, ARC-Challenge (Clark et al. 2018), with three to five answers.

python run.py --config=configs/finetune/arc.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('arc', rows=1_119, context=256)
    config.task.update(kind='choose', source='tfds:ai2_arc/ARC-Challenge', choices=('{choices[text]}',))
    config.task.update(prompt='{question}\n', label='answerKey', auxiliary=0.5)
    return config
