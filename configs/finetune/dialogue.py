"""Dialogues about Python's library; generated, no network (synthetic:dialogue).

python run.py --config=configs/start_cpu.py --config.model.context=1024 \\
    --config.train.batch_size=2 --workdir=runs/tiny_1024
python run.py --config=configs/finetune/dialogue.py --config.init_from=runs/tiny_1024
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.make_config('dialogue', context=1024, steps=300)
    config.train.update(batch_size=16, microbatch_size=2)
    return config
