"""Do two sentences say the same? Made events told twice (gpt_jax/data/made/similarity.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=512 --config.train.batch=4 --workdir=runs/tiny_512
python run.py --config=configs/finetune/similarity.py --config.init_from=runs/tiny_512
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('similarity', context=320, steps=600)
    config.task.update(kind='classify', source='made:similarity', prompt='{first}', second='{second}', symmetric=True)
    config.task.update(label='label', labels=('different', 'same'), auxiliary=0.5)
    config.task.metrics = ('accuracy', 'macro_f1', 'matthews')
    return config
