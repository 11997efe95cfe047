"""One-sentence summaries of news articles: XSum (Narayan et al. 2018).

python run.py --config=configs/finetune/xsum.py --config.init_from=runs/gpt2

TFDS reads the articles from its manual folder; its message on preparation names their source.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('xsum', rows=203_577, context=1024, epochs=1)
