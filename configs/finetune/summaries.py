"""One-line summaries of functions of Python's library; no network (synthetic:summaries).

python run.py --config=configs/start_cpu.py --config.model.context=512 \\
    --config.train.batch_size=4 --workdir=runs/tiny_512
python run.py --config=configs/finetune/summaries.py --config.init_from=runs/tiny_512
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    return local.make_config('summaries', context=512, steps=400)
