"""The continuation of a docstring, out of four; generated, no network (synthetic:choices).

python run.py --config=configs/start_cpu.py --config.model.context=1024 \\
    --config.train.batch_size=2 --workdir=runs/tiny_1024
python run.py --config=configs/finetune/choices.py --config.init_from=runs/tiny_1024

Telling apart four continuations about one subject is hard for 0.8M parameters: the accuracy stays
at chance level, where it was before fine-tuning.
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.make_config('choices', context=1024, steps=200)
    config.train.update(batch_size=8, microbatch_size=1)
    return config
