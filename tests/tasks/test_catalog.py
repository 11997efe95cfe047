"""Tests of the catalog and configs/finetune: every task makes examples of its source's rows."""

import importlib
import json
import re
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from gpt_jax.core import config_fields
from gpt_jax.core.config import TaskConfig, to_raw
from gpt_jax.core.errors import UserError
from gpt_jax.data import tfds_source
from gpt_jax.tasks import catalog, chat_template, task_dataset
from gpt_jax.tasks.examples import (
    ClassificationExample,
    CompletionExample,
    MultipleChoiceExample,
    PreferenceExample,
    TokenClassificationExample,
)

ROOT = Path(__file__).parents[2]
NAMES = sorted(catalog.TASKS)
CHATML = (
    '{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}'
    "{{ '<assistant>' if add_generation_prompt }}"
)

# Values of features that the tasks do not use.
UNUSED = {'id': 'x', 'idx': 3}
ROWS = {
    'sst2': {'sentence': 'a gem ', 'label': 1},
    'mrpc': {'sentence1': 'It rose.', 'sentence2': 'It went up.', 'label': 1},
    'qqp': {'question1': 'Why?', 'question2': 'How come?', 'label': 0},
    'stsb': {'sentence1': 'It rose.', 'sentence2': 'It went up.', 'label': 3.8},
    'rte': {'sentence1': 'All rose.', 'sentence2': 'One rose.', 'label': 0},
    'mnli': {'premise': 'All rose.', 'hypothesis': 'None rose.', 'label': 2},
    'imdb': {'text': 'A bore.', 'label': 0},
    'squad': {
        'context': 'Ada wrote it.',
        'question': 'Who?',
        'title': 't',
        'answers': {'text': ['Ada', 'Ada L.'], 'answer_start': [0, 0]},
    },
    'cnn_dailymail': {'article': 'Long.', 'highlights': 'Short .\nBrief .', 'publisher': 'cnn'},
    'xsum': {'document': 'Long.', 'summary': 'Short.'},
    'wmt14_de_en': {'de': 'Der Hund.', 'en': 'The dog.'},
    'conll2003': {'tokens': ['Ada', 'ran'], 'pos': [22, 38], 'chunks': [11, 21], 'ner': [1, 0]},
    'piqa': {'goal': 'Dry it', 'sol1': 'with a towel', 'sol2': 'with water', 'label': 0},
    'hellaswag': {
        'context': 'He sits.',
        'endings': ['a', 'b', 'c', 'd'],
        'label': 2,
        'activity_label': 'x',
        'split_type': 'x',
        'source_id': 'x',
    },
    'arc': {
        'question': 'Why?',
        'choices': {'text': ['a', 'b', 'c'], 'label': [0, 1, 2]},
        'answerKey': 2,
    },
    'dolly': {'instruction': 'Add', 'context': '1, 2', 'response': '3', 'category': 'x'},
    'schema_dialogue': {
        'utterances': ['Hi', 'Hello', 'A table', 'When?'],
        'first_speaker': 0,
        'metadata': {'services': {'name': ['x']}},
    },
}
EXPECTED = {
    'sst2': ClassificationExample(('a gem ',), 1, False),
    'mrpc': ClassificationExample(('It rose.', 'It went up.'), 1, True),
    'qqp': ClassificationExample(('Why?', 'How come?'), 0, True),
    'stsb': ClassificationExample(('It rose.', 'It went up.'), 4, True),
    'rte': ClassificationExample(('All rose.', 'One rose.'), 0, False),
    'mnli': ClassificationExample(('All rose.', 'None rose.'), 2, False),
    'imdb': ClassificationExample(('A bore.',), 0, False),
    'squad': CompletionExample(
        (('Ada wrote it.\n\nQuestion: Who?\nAnswer:', False), (' Ada', True)), (' Ada', 'Ada L.')
    ),
    'cnn_dailymail': CompletionExample(
        (('Long.\n\nTL;DR:', False), (' Short .\nBrief .', True)), (' Short .\nBrief .',)
    ),
    'xsum': CompletionExample((('Long.\n\nTL;DR:', False), (' Short.', True)), (' Short.',)),
    'wmt14_de_en': CompletionExample(
        (('German: Der Hund.\nEnglish:', False), (' The dog.', True)), (' The dog.',)
    ),
    'conll2003': TokenClassificationExample(('Ada', 'ran'), (1, 0)),
    'piqa': MultipleChoiceExample('Dry it', (' with a towel', ' with water'), 0),
    'hellaswag': MultipleChoiceExample('He sits.', (' a', ' b', ' c', ' d'), 2),
    'arc': MultipleChoiceExample('Why?\n', ('a', 'b', 'c'), 2),
    'dolly': CompletionExample(
        (('1, 2\n\nInstruction: Add\nResponse:', False), (' 3', True)), (' 3',)
    ),
    'schema_dialogue': CompletionExample(
        (
            ('User: Hi\nAssistant:', False),
            (' Hello\n', True),
            ('User: A table\nAssistant:', False),
            (' When?\n', True),
        ),
        ('When?',),
    ),
    'chat_files': CompletionExample(
        (('<user>Hello<assistant>', False), ('Hello!', True)), ('Hello!',)
    ),
    'code_files': CompletionExample(
        (('def f(x):\n', False), ('    return x\n', True)),
        ('    return x\n',),
        ('def f(x):\n', '\ndef check(candidate): ...\ncheck(f)\n'),
    ),
    'preference_files': PreferenceExample('\n\nHuman: Hi\n\nAssistant:', ' Hello!', ' Go away.'),
    'semantic_roles': TokenClassificationExample(
        ('gave', '|', 'She', 'gave', 'him', 'it'), (0, 0, 3, 1, 7, 5)
    ),
}
# Where they are not train, validation and test.
SPLITS = {
    'conll2003': ('train', 'dev', 'test'),
    'imdb': ('train', 'test', 'unsupervised'),
    'dolly': ('train',),
    'schema_dialogue': ('train', 'dev', 'test'),
    'mnli': ('train', 'validation_matched'),
}


class Mocked(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A dataset with the features of a real one, and copies of one row."""

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, features, row, splits, folder):
        self.features, self.row, self.splits = features, row, splits
        super().__init__(data_dir=folder, file_format='array_record')

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self.features)

    def _split_generators(self, _):
        return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split):
        unused = {name: value for name, value in UNUSED.items() if name in self.features}
        for number in range(1 if split != 'train' or len(self.splits) > 1 else 12):
            yield number, self.row | unused


def load_config(name):
    return to_raw(importlib.import_module(f'configs.finetune.{name}').get_config())


def load_task(name, **changes):
    return config_fields.from_dict(TaskConfig, catalog.task_section(name) | changes, 'task')


@pytest.fixture
def mocked(tmp_path, monkeypatch):
    """Replaces a builder of TFDS by a small one with the same features."""
    registered_builder = tfds_source._registered_builder
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'nothing'))

    def replace(name):
        def builder(where, source):
            splits = SPLITS.get(name, ('train', 'validation', 'test'))
            if source == 'glue/mnli_matched':
                splits = ('validation', 'test')
            return Mocked(
                registered_builder(where, source).info.features,
                ROWS[name],
                splits,
                str(tmp_path / source.replace('/', '-')),
            )

        monkeypatch.setattr(tfds_source, '_registered_builder', builder)

    return replace


@pytest.mark.parametrize('name', ROWS)
def test_tfds_tasks(mocked, tmp_path, name):
    mocked(name)
    # Copies of a row share a split, so without a validation split all of train is used for it.
    changes = {'validation_source': load_task(name).source} if name in ('imdb', 'dolly') else {}
    examples = task_dataset.load_examples(load_task(name, **changes), str(tmp_path / 'cache'), None)
    for split in ('train', 'validation'):
        assert next(examples.examples(split)) == EXPECTED[name]
    assert (examples.counts.get('test', 0) == 1) == (name not in ('dolly', 'mnli'))


@pytest.mark.parametrize(
    'name', [name for name in NAMES if name.endswith('_files') or name == 'semantic_roles']
)
def test_file_tasks_read_the_documented_line(tmp_path, name):
    doc = importlib.import_module(f'configs.finetune.{name}').__doc__
    line, _ = json.JSONDecoder().raw_decode(doc.partition('A line is ')[2])
    config = load_task(name)
    folder = tmp_path / re.fullmatch(r'files:(\w+)/\*\.jsonl', config.source)[1]
    folder.mkdir()
    for side in ('train', 'validation'):
        (folder / f'{side}.jsonl').write_text(json.dumps(line) + '\n')
    sources = {
        'source': f'files:{folder}/train.jsonl',
        'validation_source': f'files:{folder}/validation.jsonl',
    }
    examples = task_dataset.load_examples(
        load_task(name, **sources), str(tmp_path), chat_template.ChatTemplate(CHATML, ())
    )
    assert list(examples.examples('train')) == [EXPECTED[name]]


@pytest.mark.parametrize('name', [name for name in NAMES if name not in EXPECTED])
def test_synthetic_tasks(tmp_path, small_stdlib, monkeypatch, name):
    """The templates and labels fit the datasets, whose contents are tested with them."""
    monkeypatch.setattr('gpt_jax.data.sources.stdlib_folder', lambda: small_stdlib)
    config = load_task(name)
    assert config.source == f'synthetic:{name}'
    examples = task_dataset.load_examples(config, str(tmp_path), None)
    assert min(examples.counts[split] for split in ('train', 'validation', 'test')) > 0
    kinds = {
        'completion': CompletionExample,
        'classification': ClassificationExample,
        'multiple_choice': MultipleChoiceExample,
        'token_classification': TokenClassificationExample,
        'preference': PreferenceExample,
    }
    assert all(
        isinstance(example, kinds[config.kind])
        for split in examples.counts
        for example in examples.examples(split)
    )
    if config.labels and config.kind == 'classification':
        assert {example.label for example in examples.examples('train')} == set(
            range(len(config.labels))
        )


def test_all_tasks_are_tested():
    synthetic = {name for name in NAMES if load_task(name).source == f'synthetic:{name}'}
    assert {*EXPECTED, *synthetic} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_docstring_has_the_command(name):
    doc = importlib.import_module(f'configs.finetune.{name}').__doc__
    assert f'python run.py --config=configs/finetune/{name}.py --config.init_from=runs/' in doc
    assert load_config(name)['name'] == name
    pretrained = re.search(
        r'--config\.model\.context=(\d+) --workdir=(\S+)\n.*init_from=(\S+)\n', doc
    )
    if pretrained:
        assert int(pretrained[1]) == load_config(name)['model']['context']
        assert pretrained[2] == pretrained[3]


@pytest.mark.parametrize('name', NAMES)
def test_config_has_the_task_of_the_catalog(name):
    assert load_config(name)['task'] == to_raw(catalog.task_section(name))


def test_every_task_has_a_config():
    names = {path.stem for path in (ROOT / 'configs' / 'finetune').glob('*.py')}
    assert names - {'__init__', 'local', 'published', 'by_size'} == set(NAMES)


def test_unknown_task_names_the_nearest():
    message = r"^no task 'sentimnt'; the nearest is 'sentiment'; must be one of arc, "
    with pytest.raises(UserError, match=message):
        catalog.task_section('sentimnt')
