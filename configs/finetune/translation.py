"""How is it said in another language? Messages of installed programs (gpt_jax/data/made/translation.py); no network.

python run.py --config=configs/start_cpu.py --config.model.context=256 --workdir=runs/tiny_256
python run.py --config=configs/finetune/translation.py --config.init_from=runs/tiny_256

--config.task.source=made:grammar takes a made language instead, which a model of this size can learn.
"""

from ml_collections import ConfigDict

from configs.finetune import local


def get_config() -> ConfigDict:
    config = local.get_config('translation', context=256, steps=600)
    config.task.update(kind='answer', source='made:translation')
    config.task.update(prompt='English: {source}\nTranslation:', answer=' {target}')
    config.task.metrics = ('bleu', 'chrf')
    return config
