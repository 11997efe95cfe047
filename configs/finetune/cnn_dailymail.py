"""Highlights of news articles: CNN/DailyMail (Hermann et al. 2015, See et al. 2017).

python run.py --config=configs/finetune/cnn_dailymail.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('cnn_dailymail', rows=287_113, context=1024, epochs=1)
