"""What does the assistant say next? Dialogues on Python's library (gpt_jax/data/made/dialogue.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=1024 --config.train.batch=2 --workdir=runs/tiny_1024
python run.py --config=configs/finetune/dialogue.py --config.init_from=runs/tiny_1024
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('dialogue', context=1024, steps=300)
    config.task.update(kind='answer', source='made:dialogue', messages='messages')
    config.train.update(batch=16, microbatch=2)
    config.task.metrics = ('f1', 'exact_match')
    return config
