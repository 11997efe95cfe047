"""Who did what to whom? Semantic roles in files of yours, for PropBank (Palmer et al. 2005) cannot be passed on.

python run.py --config=configs/finetune/semantic_roles.py --config.init_from=runs/gpt2

A line is {"words": ["gave", "|", "She", "gave", "him", "it"], "tags": ["O", "O", "B-ARG0", "B-V", "B-ARG2", "B-ARG1"]}:
one predicate of a sentence, named in front. `rows`, of which the steps are reckoned, are to be yours.
"""

from ml_collections import ConfigDict

from configs.finetune import published

ROLES = ('V', 'ARG0', 'ARG1', 'ARG2', 'ARG3', 'ARG4', 'ARGM-TMP', 'ARGM-LOC', 'ARGM-MNR', 'ARGM-MOD', 'ARGM-NEG')


def get_config() -> ConfigDict:
    config = published.get_config('semantic_roles', rows=90_000, context=256)
    config.task.update(kind='label', source='files:roles/*.jsonl', words='words', tags='tags')
    config.task.labels = ('O', *(f'{side}-{role}' for role in ROLES for side in 'BI'))
    config.task.metrics = ('entity_f1', 'accuracy')
    return config
