"""Catalog of the fine-tuning tasks: values of the config's task section, by task name.

Tasks with a `tfds:` source are published datasets, those with `synthetic:` are generated without a
network (gpt_jax/tasks/synthetic/), and those with `files:` are templates for the user's own files.
configs/finetune/NAME.py adds a model, a learning rate and a number of steps to each task.
"""

import dataclasses
from typing import Any

from gpt_jax.core import config_fields
from gpt_jax.core.config import TaskConfig
from gpt_jax.core.errors import UserError


def task_section(name: str) -> dict[str, Any]:
    """Return all fields of the task section of a cataloged task, defaults included.

    Raises:
      UserError: the catalog has no task of this name; the message names the nearest.
    """
    if name not in TASKS:
        nearest = config_fields.nearest(name, TASKS)
        raise UserError(f'no task {name!r}{nearest}; must be one of {", ".join(TASKS)}')
    fields = dataclasses.fields(TaskConfig)
    return {field.name: field.metadata['default'] for field in fields} | TASKS[name]


def _bio_tags(*types: str) -> tuple[str, ...]:
    """Return the IOB2 tags of span types: O first, then B-TYPE and I-TYPE for each."""
    return ('O', *(f'{prefix}-{name}' for name in types for prefix in 'BI'))


_ENDINGS = tuple(f' {{endings[{index}]}}' for index in range(4))
_NLI_LABELS = ('entailment', 'neutral', 'contradiction')
_QUESTION_PROMPT = '{context}\n\nQuestion: {question}\nAnswer:'
_SUMMARY_METRICS = ('rougeL', 'rouge1', 'rouge2')

TASKS: dict[str, dict[str, Any]] = {
    # Science exam questions with three to five answers: ARC-Challenge (Clark et al. 2018).
    'arc': {
        'kind': 'multiple_choice',
        'source': 'tfds:ai2_arc/ARC-Challenge',
        'prompt': '{question}\n',
        'choices': ('{choices[text]}',),
        'label': 'answerKey',
        'lm_loss_weight': 0.5,
    },
    # Dialogues in the user's files, formatted with the chat template of the tokenizer.
    'chat_files': {
        'kind': 'completion',
        'source': 'files:dialogues/*.jsonl',
        'messages': 'messages',
        'chat': True,
    },
    # Synthetic: the continuation of a docstring, out of four.
    'choices': {
        'kind': 'multiple_choice',
        'source': 'synthetic:choices',
        'prompt': '{context}',
        'choices': _ENDINGS,
        'label': 'label',
        'lm_loss_weight': 0.5,
    },
    # Highlights of news articles: CNN/DailyMail (Hermann et al. 2015, See et al. 2017).
    'cnn_dailymail': {
        'kind': 'completion',
        'source': 'tfds:cnn_dailymail',
        'prompt': '{article}\n\nTL;DR:',
        'answer': ' {highlights}',
        'truncation_side': 'right',
        'metrics': _SUMMARY_METRICS,
    },
    # Synthetic: function bodies of Python's standard library and of generated exercises.
    'code': {
        'kind': 'completion',
        'source': 'synthetic:code',
        'prompt': '{prompt}',
        'answer': '{body}',
        'program': '{prompt}{written}\n{test}',
        'metrics': ('pass@1', 'exact_match'),
    },
    # Function bodies in the user's files, with the columns of HumanEval (Chen et al. 2021).
    'code_files': {
        'kind': 'completion',
        'source': 'files:code/*.jsonl',
        'prompt': '{prompt}',
        'answer': '{canonical_solution}',
        'program': '{prompt}{written}\n{test}\ncheck({entry_point})\n',
        'metrics': ('pass@1', 'exact_match'),
    },
    # Named entities in news: CoNLL-2003 (Tjong Kim Sang and De Meulder 2003).
    'conll2003': {
        'kind': 'token_classification',
        'source': 'tfds:conll2003',
        'tokens_column': 'tokens',
        'tags_column': 'ner',
        'labels': _bio_tags('PER', 'ORG', 'LOC', 'MISC'),
        'metrics': ('entity_f1', 'accuracy'),
    },
    # Synthetic: the assistant's turns in dialogues about Python's standard library.
    'dialogue': {
        'kind': 'completion',
        'source': 'synthetic:dialogue',
        'messages': 'messages',
        'metrics': ('f1', 'exact_match'),
    },
    # Answers to instructions, some about a given text: Dolly 15k (Conover et al. 2023).
    'dolly': {
        'kind': 'completion',
        'source': 'tfds:databricks_dolly',
        'prompt': '{context}\n\nInstruction: {instruction}\nResponse:',
        'answer': ' {response}',
        'metrics': ('rougeL', 'f1'),
    },
    # Synthetic: names of modules, classes and functions in docstrings.
    'entities': {
        'kind': 'token_classification',
        'source': 'synthetic:entities',
        'tokens_column': 'words',
        'tags_column': 'tags',
        'labels': _bio_tags('MODULE', 'CLASS', 'FUNCTION'),
        'metrics': ('entity_f1', 'accuracy'),
    },
    # The most plausible of four continuations of a scene: HellaSwag (Zellers et al. 2019).
    'hellaswag': {
        'kind': 'multiple_choice',
        'source': 'tfds:hellaswag',
        'prompt': '{context}',
        'choices': _ENDINGS,
        'label': 'label',
        'lm_loss_weight': 0.5,
    },
    # Sentiment of film reviews: IMDB (Maas et al. 2011).
    'imdb': {
        'kind': 'classification',
        'source': 'tfds:imdb_reviews',
        'prompt': '{text}',
        'label': 'label',
        'labels': ('neg', 'pos'),
        'lm_loss_weight': 0.5,
        'metrics': ('accuracy',),
    },
    # Entailment between two sentences, validated on matched genres: MNLI (Williams et al. 2018).
    'mnli': {
        'kind': 'classification',
        'source': 'tfds:glue/mnli',
        'validation_source': 'tfds:glue/mnli_matched',
        'prompt': '{premise}',
        'text_pair': '{hypothesis}',
        'label': 'label',
        'labels': _NLI_LABELS,
        'lm_loss_weight': 0.5,
        'metrics': ('accuracy', 'macro_f1'),
    },
    # Paraphrases in news, as in GLUE: MRPC (Dolan and Brockett 2005).
    'mrpc': {
        'kind': 'classification',
        'source': 'tfds:glue/mrpc',
        'prompt': '{sentence1}',
        'text_pair': '{sentence2}',
        'symmetric': True,
        'label': 'label',
        'labels': ('not_equivalent', 'equivalent'),
        'lm_loss_weight': 0.5,
        'metrics': ('macro_f1', 'accuracy'),
    },
    # Synthetic: entailment between two generated sentences.
    'pairs': {
        'kind': 'classification',
        'source': 'synthetic:pairs',
        'prompt': '{premise}',
        'text_pair': '{hypothesis}',
        'label': 'label',
        'labels': _NLI_LABELS,
        'lm_loss_weight': 0.5,
        'metrics': ('accuracy', 'macro_f1'),
    },
    # The better of two ways to reach a physical goal: PIQA (Bisk et al. 2020).
    'piqa': {
        'kind': 'multiple_choice',
        'source': 'tfds:piqa',
        'prompt': '{goal}',
        'choices': (' {sol1}', ' {sol2}'),
        'label': 'label',
        'lm_loss_weight': 0.5,
    },
    # The preferred of two answers in the user's files, as in HH-RLHF (Bai et al. 2022).
    'preference_files': {
        'kind': 'preference',
        'source': 'files:preferences/*.jsonl',
        'prompt': '{prompt}',
        'chosen': '{chosen}',
        'rejected': '{rejected}',
        'beta': 0.1,
    },
    # Synthetic: the description of a function, against a wrong or degraded one.
    'preferences': {
        'kind': 'preference',
        'source': 'synthetic:preferences',
        'prompt': '{prompt}',
        'chosen': ' {chosen}',
        'rejected': ' {rejected}',
        'beta': 0.1,
    },
    # Duplicate questions: Quora question pairs, as in GLUE (Wang et al. 2019).
    'qqp': {
        'kind': 'classification',
        'source': 'tfds:glue/qqp',
        'prompt': '{question1}',
        'text_pair': '{question2}',
        'symmetric': True,
        'label': 'label',
        'labels': ('not_duplicate', 'duplicate'),
        'lm_loss_weight': 0.5,
        'metrics': ('macro_f1', 'accuracy'),
    },
    # Synthetic: questions answered by a span of Python's documentation.
    'questions': {
        'kind': 'completion',
        'source': 'synthetic:questions',
        'prompt': _QUESTION_PROMPT,
        'answer': ' {answers[text][0]}',
        'references': 'answers[text]',
        'metrics': ('f1', 'exact_match'),
    },
    # Synthetic: semantic roles in generated sentences.
    'roles': {
        'kind': 'token_classification',
        'source': 'synthetic:roles',
        'tokens_column': 'words',
        'tags_column': 'tags',
        'labels': _bio_tags('AGENT', 'ACTION', 'PATIENT', 'INSTRUMENT', 'PLACE', 'TIME'),
        'metrics': ('entity_f1', 'accuracy'),
    },
    # Entailment between two texts, as in GLUE: RTE (Bentivogli et al. 2009 and earlier).
    'rte': {
        'kind': 'classification',
        'source': 'tfds:glue/rte',
        'prompt': '{sentence1}',
        'text_pair': '{sentence2}',
        'label': 'label',
        'labels': ('entailment', 'not_entailment'),
        'lm_loss_weight': 0.5,
        'metrics': ('accuracy',),
    },
    # The assistant's turns in service dialogues: Schema-Guided Dialogue (Rastogi et al. 2020).
    'schema_dialogue': {
        'kind': 'completion',
        'source': 'tfds:schema_guided_dialogue',
        'messages': 'utterances',
        'metrics': ('bleu', 'f1'),
    },
    # Semantic roles in the user's files, with the roles of PropBank (Palmer et al. 2005).
    'semantic_roles': {
        'kind': 'token_classification',
        'source': 'files:roles/*.jsonl',
        'tokens_column': 'words',
        'tags_column': 'tags',
        'labels': _bio_tags(
            *('V', 'ARG0', 'ARG1', 'ARG2', 'ARG3', 'ARG4'),
            *('ARGM-TMP', 'ARGM-LOC', 'ARGM-MNR', 'ARGM-MOD', 'ARGM-NEG'),
        ),
        'metrics': ('entity_f1', 'accuracy'),
    },
    # Synthetic: sentiment of generated remarks with negation and contrast.
    'sentiment': {
        'kind': 'classification',
        'source': 'synthetic:sentiment',
        'prompt': '{text}',
        'label': 'label',
        'labels': ('negative', 'positive'),
        'lm_loss_weight': 0.5,
        'metrics': ('accuracy', 'macro_f1'),
    },
    # Synthetic: whether two sentences report the same event.
    'similarity': {
        'kind': 'classification',
        'source': 'synthetic:similarity',
        'prompt': '{first}',
        'text_pair': '{second}',
        'symmetric': True,
        'label': 'label',
        'labels': ('different', 'same'),
        'lm_loss_weight': 0.5,
        'metrics': ('accuracy', 'macro_f1', 'matthews'),
    },
    # Questions about a paragraph, with generated answers: SQuAD 1.1 (Rajpurkar et al. 2016).
    'squad': {
        'kind': 'completion',
        'source': 'tfds:squad/v1.1',
        'prompt': _QUESTION_PROMPT,
        'answer': ' {answers[text][0]}',
        'references': 'answers[text]',
        'metrics': ('f1', 'exact_match'),
    },
    # Sentiment of sentences in film reviews, as in GLUE: SST-2 (Socher et al. 2013).
    'sst2': {
        'kind': 'classification',
        'source': 'tfds:glue/sst2',
        'prompt': '{sentence}',
        'label': 'label',
        'labels': ('negative', 'positive'),
        'lm_loss_weight': 0.5,
        'metrics': ('accuracy',),
    },
    # Similarity of two sentences, in classes from 0 to 5, as in GLUE: STS-B (Cer et al. 2017).
    'stsb': {
        'kind': 'classification',
        'source': 'tfds:glue/stsb',
        'prompt': '{sentence1}',
        'text_pair': '{sentence2}',
        'symmetric': True,
        'label': 'label',
        'labels': ('0', '1', '2', '3', '4', '5'),
        'lm_loss_weight': 0.5,
        'metrics': ('pearson', 'spearman'),
    },
    # Synthetic: the first docstring line of functions in Python's standard library.
    'summaries': {
        'kind': 'completion',
        'source': 'synthetic:summaries',
        'prompt': '{source}\nTL;DR:',
        'answer': ' {summary}',
        'metrics': _SUMMARY_METRICS,
    },
    # Synthetic: translated messages of installed programs.
    'translation': {
        'kind': 'completion',
        'source': 'synthetic:translation',
        'prompt': 'English: {source}\nTranslation:',
        'answer': ' {target}',
        'metrics': ('bleu', 'chrf'),
    },
    # German to English: WMT 2014 (Bojar et al. 2014).
    'wmt14_de_en': {
        'kind': 'completion',
        'source': 'tfds:wmt14_translate/de-en',
        'prompt': 'German: {de}\nEnglish:',
        'answer': ' {en}',
        'metrics': ('bleu', 'chrf'),
    },
    # One-sentence summaries of news articles: XSum (Narayan et al. 2018).
    'xsum': {
        'kind': 'completion',
        'source': 'tfds:xsum',
        'prompt': '{document}\n\nTL;DR:',
        'answer': ' {summary}',
        'truncation_side': 'right',
        'metrics': _SUMMARY_METRICS,
    },
}
