"""Function bodies of Python's library and of exercises; generated, no network (synthetic:code).

python run.py --config=configs/start_cpu.py --config.model.context=512 \\
    --config.train.batch_size=4 --workdir=runs/tiny_512
python run.py --config=configs/finetune/code.py --config.init_from=runs/tiny_512
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    return local.make_config('code', context=512, steps=400)
