"""How is a German sentence said in English? WMT 2014 (Bojar et al. 2014).

python run.py --config=configs/finetune/wmt14_de_en.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    config = published.get_config('wmt14_de_en', rows=4_592_289, context=256, epochs=1)
    config.task.update(kind='answer', source='tfds:wmt14_translate/de-en')
    config.task.update(prompt='German: {de}\nEnglish:', answer=' {en}')
    config.task.metrics = ('bleu', 'chrf')
    return config
