"""Is a film review kind? IMDB (Maas et al. 2011); a tenth of its train split validates; of a long one the end is read.

python run.py --config=configs/finetune/imdb.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('imdb', rows=22_500, context=512)
    config.task.update(kind='classify', source='tfds:imdb_reviews', prompt='{text}', label='label', auxiliary=0.5)
    config.task.update(labels=('neg', 'pos'))
    config.task.metrics = ('accuracy',)
    return config
