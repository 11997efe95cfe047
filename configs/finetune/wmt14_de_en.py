"""German to English: WMT 2014 (Bojar et al. 2014).

python run.py --config=configs/finetune/wmt14_de_en.py --config.init_from=runs/gpt2
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('wmt14_de_en', rows=4_592_289, context=256, epochs=1)
