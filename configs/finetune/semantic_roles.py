"""Semantic roles in your files, with the roles of PropBank (Palmer et al. 2005).

python run.py --config=configs/finetune/semantic_roles.py --config.init_from=runs/gpt2

A line is {"words": ["gave", "|", "She", "gave", "him", "it"],
           "tags": ["O", "O", "B-ARG0", "B-V", "B-ARG2", "B-ARG1"]}

Each line is about one predicate of a sentence, which is put before it. PropBank cannot be
redistributed. Set `rows` to the number of your lines; it determines the number of steps.
"""

from ml_collections import ConfigDict

from configs.finetune import published


def get_config() -> ConfigDict:
    return published.make_config('semantic_roles', rows=90_000, context=256)
