"""Does every config for tuning make examples of its kind, with the features that its source truly has?"""

import importlib
import json
import re
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from gpt_jax import overrides, schema
from gpt_jax.data import chat, task_set, tfds_sets
from gpt_jax.data.examples import Answer, Choice, Classified, Labelled, Preference
from gpt_jax.data.task import TaskConfig

ROOT = Path(__file__).parents[2]
NAMES = sorted(
    path.stem
    for path in (ROOT / 'configs' / 'finetune').glob('*.py')
    if path.stem not in ('local', 'published', 'by_size')
)
CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ '<assistant>' if add_generation_prompt }}"

PIECE = {'id': 'x', 'idx': 3}
ROWS = {
    'sst2': {'sentence': 'a gem ', 'label': 1},
    'mrpc': {'sentence1': 'It rose.', 'sentence2': 'It went up.', 'label': 1},
    'qqp': {'question1': 'Why?', 'question2': 'How come?', 'label': 0},
    'stsb': {'sentence1': 'It rose.', 'sentence2': 'It went up.', 'label': 3.8},
    'rte': {'sentence1': 'All rose.', 'sentence2': 'One rose.', 'label': 0},
    'mnli': {'premise': 'All rose.', 'hypothesis': 'None rose.', 'label': 2},
    'imdb': {'text': 'A bore.', 'label': 0},
    'squad': {
        'context': 'Ada wrote it.', 'question': 'Who?', 'title': 't',
        'answers': {'text': ['Ada', 'Ada L.'], 'answer_start': [0, 0]},
    },
    'cnn_dailymail': {'article': 'Long.', 'highlights': 'Short .\nBrief .', 'publisher': 'cnn'},
    'xsum': {'document': 'Long.', 'summary': 'Short.'},
    'wmt14_de_en': {'de': 'Der Hund.', 'en': 'The dog.'},
    'conll2003': {'tokens': ['Ada', 'ran'], 'pos': [22, 38], 'chunks': [11, 21], 'ner': [1, 0]},
    'piqa': {'goal': 'Dry it', 'sol1': 'with a towel', 'sol2': 'with water', 'label': 0},
    'hellaswag': {
        'context': 'He sits.', 'endings': ['a', 'b', 'c', 'd'], 'label': 2, 'activity_label': 'x', 'split_type': 'x',
        'source_id': 'x',
    },
    'arc': {'question': 'Why?', 'choices': {'text': ['a', 'b', 'c'], 'label': [0, 1, 2]}, 'answerKey': 2},
    'dolly': {'instruction': 'Add', 'context': '1, 2', 'response': '3', 'category': 'x'},
    'schema_dialogue': {
        'utterances': ['Hi', 'Hello', 'A table', 'When?'], 'first_speaker': 0,
        'metadata': {'services': {'name': ['x']}},
    },
}  # fmt: skip
EXPECTED = {
    'sst2': Classified(('a gem ',), 1, False),
    'mrpc': Classified(('It rose.', 'It went up.'), 1, True),
    'qqp': Classified(('Why?', 'How come?'), 0, True),
    'stsb': Classified(('It rose.', 'It went up.'), 4, True),
    'rte': Classified(('All rose.', 'One rose.'), 0, False),
    'mnli': Classified(('All rose.', 'None rose.'), 2, False),
    'imdb': Classified(('A bore.',), 0, False),
    'squad': Answer((('Ada wrote it.\n\nQuestion: Who?\nAnswer:', False), (' Ada', True)), (' Ada', 'Ada L.')),
    'cnn_dailymail': Answer((('Long.\n\nTL;DR:', False), (' Short .\nBrief .', True)), (' Short .\nBrief .',)),
    'xsum': Answer((('Long.\n\nTL;DR:', False), (' Short.', True)), (' Short.',)),
    'wmt14_de_en': Answer((('German: Der Hund.\nEnglish:', False), (' The dog.', True)), (' The dog.',)),
    'conll2003': Labelled(('Ada', 'ran'), (1, 0)),
    'piqa': Choice('Dry it', (' with a towel', ' with water'), 0),
    'hellaswag': Choice('He sits.', (' a', ' b', ' c', ' d'), 2),
    'arc': Choice('Why?\n', ('a', 'b', 'c'), 2),
    'dolly': Answer((('1, 2\n\nInstruction: Add\nResponse:', False), (' 3', True)), (' 3',)),
    'schema_dialogue': Answer(
        (('User: Hi\nAssistant:', False), (' Hello\n', True), ('User: A table\nAssistant:', False), (' When?\n', True)),
        ('When?',),
    ),
    'chat_files': Answer((('<user>Hello<assistant>', False), ('Hello!', True)), ('Hello!',)),
    'code_files': Answer(
        (('def f(x):\n', False), ('    return x\n', True)),
        ('    return x\n',),
        ('def f(x):\n', '\ndef check(candidate): ...\ncheck(f)\n'),
    ),
    'preference_files': Preference('\n\nHuman: Hi\n\nAssistant:', ' Hello!', ' Go away.'),
    'semantic_roles': Labelled(('gave', '|', 'She', 'gave', 'him', 'it'), (0, 0, 3, 1, 7, 5)),
}
# Whose splits are not train, validation and test.
SPLITS = {'conll2003': ('train', 'dev', 'test'), 'imdb': ('train', 'test', 'unsupervised'), 'dolly': ('train',),
          'schema_dialogue': ('train', 'dev', 'test'), 'mnli': ('train', 'validation_matched')}  # fmt: skip


class Mocked(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A few times the same row, told apart by its first text; under the features of a real set."""

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, features, row, splits, folder):
        self.features, self.row, self.splits = features, row, splits
        super().__init__(data_dir=folder, file_format='array_record')

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self.features)

    def _split_generators(self, _):
        return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split):
        about = {name: value for name, value in PIECE.items() if name in self.features}
        for number in range(1 if split != 'train' or len(self.splits) > 1 else 12):
            yield number, self.row | about


def config_of(name):
    return overrides.plain(importlib.import_module(f'configs.finetune.{name}').get_config())


def task_of(name, **changes):
    return schema.from_dict(TaskConfig, config_of(name)['task'] | changes, 'task')


@pytest.fixture
def mocked(tmp_path, monkeypatch):
    """Puts such builders in the place of TFDS's own, whose features are looked up as ever."""
    true = tfds_sets._registered_builder
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'nothing'))

    def put(name):
        def builder(where, source):
            splits = SPLITS.get(name, ('train', 'validation', 'test'))
            if source == 'glue/mnli_matched':
                splits = ('validation', 'test')
            return Mocked(
                true(where, source).info.features, ROWS[name], splits, str(tmp_path / source.replace('/', '-'))
            )

        monkeypatch.setattr(tfds_sets, '_registered_builder', builder)

    return put


@pytest.mark.parametrize('name', ROWS)
def test_registered_sets(mocked, tmp_path, name):
    mocked(name)
    # Copies of a row do not lie on both sides; where there is no validation split, all of training's is taken for it.
    changes = {'validation_source': task_of(name).source} if name in ('imdb', 'dolly') else {}
    found = task_set.load(task_of(name, **changes), str(tmp_path / 'cache'), None)
    for split in ('train', 'validation'):
        assert next(found.examples(split)) == EXPECTED[name]
    assert (found.counts.get('test', 0) == 1) == (name not in ('dolly', 'mnli'))


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith('_files') or name == 'semantic_roles'])
def test_files_laid_out_as_a_config_says(tmp_path, name):
    said = importlib.import_module(f'configs.finetune.{name}').__doc__
    line, _ = json.JSONDecoder().raw_decode(said[said.index('A line is {') + len('A line is ') :].replace('\n"', ' "'))
    config = task_of(name)
    folder = tmp_path / re.fullmatch(r'files:(\w+)/\*\.jsonl', config.source)[1]
    folder.mkdir()
    for side in ('train', 'validation'):
        (folder / f'{side}.jsonl').write_text(json.dumps(line) + '\n')
    sources = {'source': f'files:{folder}/train.jsonl', 'validation_source': f'files:{folder}/validation.jsonl'}
    found = task_set.load(task_of(name, **sources), str(tmp_path), chat.Chat(CHATML, ()))
    assert list(found.examples('train')) == [EXPECTED[name]]


@pytest.mark.parametrize('name', [name for name in NAMES if name not in EXPECTED])
def test_made_sets(tmp_path, small_stdlib, monkeypatch, name):
    """What the examples are of is tested with the sets themselves; here, that templates and labels are theirs."""
    monkeypatch.setattr('gpt_jax.data.sources.stdlib_folder', lambda: small_stdlib)
    config = task_of(name)
    assert config.source == f'made:{name}'
    found = task_set.load(config, str(tmp_path), None)
    assert min(found.counts[split] for split in ('train', 'validation', 'test')) > 0
    kinds = {'answer': Answer, 'classify': Classified, 'choose': Choice, 'label': Labelled, 'prefer': Preference}
    assert all(isinstance(example, kinds[config.kind]) for split in found.counts for example in found.examples(split))
    if config.labels and config.kind == 'classify':
        assert {example.label for example in found.examples('train')} == set(range(len(config.labels)))


def test_each_is_looked_at():
    made = {name for name in NAMES if task_of(name).source == f'made:{name}'}
    assert {*EXPECTED, *made} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_the_command_is_the_files_own(name):
    said = importlib.import_module(f'configs.finetune.{name}').__doc__
    assert f'python run.py --config=configs/finetune/{name}.py --config.init_from=runs/' in said
    assert config_of(name)['name'] == name
    pretrained = re.search(r'--config\.model\.context=(\d+) --workdir=(\S+)\n.*init_from=(\S+)\n', said)
    if pretrained:
        assert int(pretrained[1]) == config_of(name)['model']['context']
        assert pretrained[2] == pretrained[3]
