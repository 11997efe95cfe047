"""One-sentence summaries of news articles: XSum (Narayan et al. 2018).

python run.py --config=configs/finetune/xsum.py --config.init_from=runs/gpt2

TFDS expects the articles in its manual download folder; when it prepares the dataset, its message
says where to get them.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('xsum', rows=203_577, context=1024, epochs=1)
