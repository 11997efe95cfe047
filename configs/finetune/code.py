"""How does a function go on? Python's own library and exercises (gpt_jax/data/made/code.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=512 --config.train.batch=4 --workdir=runs/tiny_512
python run.py --config=configs/finetune/code.py --config.init_from=runs/tiny_512
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('code', context=512, steps=400)
    config.task.update(kind='answer', source='made:code', prompt='{prompt}', answer='{body}')
    config.task.program = '{prompt}{written}\n{test}'
    config.task.metrics = ('pass@1', 'exact_match')
    return config
