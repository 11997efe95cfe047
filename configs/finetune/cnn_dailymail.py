"""What are the highlights of an article? CNN/DailyMail (Hermann et al. 2015, See et al. 2017).

python run.py --config=configs/finetune/cnn_dailymail.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('cnn_dailymail', rows=287_113, context=1024, epochs=1)
    config.task.update(kind='answer', source='tfds:cnn_dailymail', cut='right')
    config.task.update(prompt='{article}\n\nTL;DR:', answer=' {highlights}')
    config.task.metrics = ('rougeL', 'rouge1', 'rouge2')
    return config
