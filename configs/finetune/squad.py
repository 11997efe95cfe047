"""Which stretch of a paragraph answers a question? SQuAD 1.1 (Rajpurkar et al. 2016), as text that goes on.

python run.py --config=configs/finetune/squad.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('squad', rows=87_599, context=512, epochs=2)
    config.task.update(kind='answer', source='tfds:squad/v1.1', references='answers[text]')
    config.task.update(prompt='{context}\n\nQuestion: {question}\nAnswer:', answer=' {answers[text][0]}')
    config.task.metrics = ('f1', 'exact_match')
    return config
