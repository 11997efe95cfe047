"""Does lm_eval find the same of a model here as with its own backend, the one of transformers?"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

pytest.importorskip('lm_eval', reason='the command that asks')

from gpt_jax.data import tokenizer
from gpt_jax.harness.model import Model
from tests import trained
from tests.harness import local

torch = pytest.importorskip('torch', reason='the other backend')
transformers = pytest.importorskip('transformers', reason='the other backend')

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings('ignore')]  # of many libraries
CONTEXT = 64
SIZES = {
    'gpt2': {'n_positions': CONTEXT, 'n_embd': 32, 'n_layer': 2, 'n_head': 4},
    'llama': {'max_position_embeddings': CONTEXT, 'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 2,
              'num_attention_heads': 4, 'num_key_value_heads': 2, 'tie_word_embeddings': False},
}  # fmt: skip
CHAT = """{% for turn in messages %}<|{{ turn['role'] }}|>{{ turn['content'] }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""

# The command where neither torch nor transformers is.
WITHOUT = """
import importlib.machinery, runpy
find = importlib.machinery.PathFinder.find_spec
hidden = lambda name, *rest: None if name.split('.')[0] in ('torch', 'transformers') else find(name, *rest)
importlib.machinery.PathFinder.find_spec = staticmethod(hidden)
runpy.run_module('gpt_jax.harness', run_name='__main__')
"""


@pytest.fixture(scope='module', params=SIZES)
def folder(request, tmp_path_factory):
    """A published folder of random weights: GPT-2 with one special token, Llama with a beginning and a template."""
    path = tmp_path_factory.mktemp('models') / request.param
    inner = tokenizers.Tokenizer.from_str(
        tokenizer.train([local.text(n, 40) for n in range(40)], 320).content.decode('utf-8')
    )
    names = {'bos_token': '<|endoftext|>', 'eos_token': '<|endoftext|>'}
    if request.param == 'llama':
        inner.add_special_tokens(['<s>', '<|user|>', '<|assistant|>'])
        begin = [('<s>', inner.token_to_id('<s>'))]
        inner.post_processor = tokenizers.processors.TemplateProcessing('<s> $A', '<s> $A $B', begin)
        names = {'bos_token': '<s>', 'eos_token': '<|endoftext|>', 'chat_template': CHAT}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    ids = {'bos_token_id': made.bos_token_id, 'eos_token_id': made.eos_token_id, 'vocab_size': len(made)}
    config = transformers.AutoConfig.for_model(request.param, **SIZES[request.param], **ids, initializer_range=0.2)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    made.save_pretrained(path)
    return path


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv('HF_DATASETS_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield local.write(tmp_path_factory.mktemp('tasks') / 'local')
    patch.undo()


@pytest.fixture(scope='module')
def theirs(folder, tasks):
    from lm_eval.models.huggingface import HFLM

    return evaluated(HFLM(str(folder), device='cpu', batch_size=4, dtype='float32'), tasks)


def evaluated(model, tasks, **given):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(
        model, tasks=list(local.NAMES), task_manager=manager, bootstrap_iters=0, log_samples=True, **given
    )


def answers(found, name):
    return [sample['resps'] for sample in sorted(found['samples'][name], key=lambda sample: sample['doc_id'])]


@pytest.mark.parametrize('axes', [{}, {'data': 2}, {'fsdp': 2, 'tensor': 2}], ids=str)
def test_all_three_kinds_agree(folder, tasks, theirs, axes):
    ours = evaluated(Model(str(folder), batch_size=4, **axes), tasks)
    for one, two in zip(answers(ours, 'local_choices'), answers(theirs, 'local_choices'), strict=True):
        for ((log_p, greedy),), ((expected, same),) in zip(one, two, strict=True):
            assert (log_p, greedy) == (pytest.approx(expected, abs=1e-4), same)
    for ((one,),), ((two,),) in zip(answers(ours, 'local_rolling'), answers(theirs, 'local_rolling'), strict=True):
        assert one == pytest.approx(two, rel=1e-6, abs=1e-4)
    assert answers(ours, 'local_written') == answers(theirs, 'local_written')
    for name in local.NAMES:
        for metric, value in theirs['results'][name].items():
            if isinstance(value, float):
                assert ours['results'][name][metric] == pytest.approx(value, rel=1e-5), (name, metric)
    assert 0 < theirs['results']['local_choices']['acc_norm,none'] < 1
    lengths = {len(text) for ((text,),) in answers(theirs, 'local_written')}
    assert len(lengths) > 1


def test_special_tokens_and_chat_templates_are_read_alike(folder, tasks):
    from lm_eval.models.huggingface import HFLM

    one, two = Model(str(folder)), HFLM(str(folder), device='cpu', batch_size=4, dtype='float32')
    assert one.words.first == two.prefix_token_id
    begin = two.tokenizer.decode([two.prefix_token_id])
    for text in ('cats sat', f'{begin}cats', 'a<|endoftext|>b', ' '):
        assert one.words.whole([text])[0].tolist() == two.tok_encode(text)
        assert one.words.plain([text])[0].tolist() == two.tok_encode(text, add_special_tokens=False)
        assert one.words.decode(two.tok_encode(text)) == two.tok_decode(two.tok_encode(text))
    if two.tokenizer.chat_template:
        turns = [{'role': 'user', 'content': 'cats?'}, {'role': 'assistant', 'content': ' sat on'}]
        assert one.apply_chat_template(turns[:1]) == two.apply_chat_template(turns[:1])
        assert one.apply_chat_template(turns, False) == two.apply_chat_template(turns, False)
        assert one.chat_template(True) == two.chat_template(True)
        found = [evaluated(model, tasks, apply_chat_template=True) for model in (one, two)]
        assert answers(found[0], 'local_written') == answers(found[1], 'local_written')
        both = [np.array([[pair[0][0] for pair in row] for row in answers(each, 'local_choices')]) for each in found]
        np.testing.assert_allclose(*both, atol=1e-4)


def test_the_command_where_the_other_backend_is_not(tmp_path, tasks):
    """As a user starts it, on a run's folder and two devices."""
    run = trained.folder(tmp_path / 'run', context=CONTEXT)
    where, names = f'pretrained={run},data=2,max_length=48', 'local_choices,local_rolling'
    command = [
        sys.executable, '-c', WITHOUT, 'run', '--model', 'gpt_jax', '--model_args', where, '--tasks', names,
        '--include_path', str(tasks), '--output_path', str(tmp_path / 'out'),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {'XLA_FLAGS': ''})
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / 'out').glob('**/results*.json')
    found = json.loads(path.read_text())
    assert found['config']['model'] == 'gpt_jax'
    expected = evaluated(Model(str(run), max_length=48), tasks)
    for name in names.split(','):
        for metric, value in expected['results'][name].items():
            if isinstance(value, float):
                assert found['results'][name][metric] == pytest.approx(value, rel=1e-4), (name, metric)
    wrong = subprocess.run([*command[:7], 'pretrained=nowhere/at/all', *command[8:]], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert 'gpt_jax.harness: nowhere/at/all: ' in wrong.stderr.splitlines()[-1]
