"""Is a folder taken from here or from the hub, and is it said in one line where it is in neither?"""

import re
import sys
import types

import pytest

from gpt_jax.errors import UserError
from gpt_jax.interop import hub


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A hub that has everything; collects what it is asked for."""
    calls = []

    def snapshot_download(name, **given):
        calls.append((name, given))
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, 'huggingface_hub', types.SimpleNamespace(snapshot_download=snapshot_download))
    return calls


def test_a_folder_is_taken_where_it_is(tmp_path, asked):
    assert hub.folder(str(tmp_path)) == tmp_path
    assert asked == []


def test_a_name_is_asked_of_the_hub(tmp_path, asked):
    assert hub.folder('openai-community/gpt2') == tmp_path
    assert hub.folder('gpt2@e7da7f2') == tmp_path
    assert [(name, given['revision']) for name, given in asked] == [
        ('openai-community/gpt2', None), ('gpt2', 'e7da7f2'),
    ]  # fmt: skip
    patterns = asked[0][1]['allow_patterns']
    assert {'config.json', 'model.safetensors', 'tokenizer.json', 'merges.txt'} <= set(patterns)
    assert not any(pattern.endswith(('.bin', '.pt', '.py', '.h5')) or pattern.startswith('*') for pattern in patterns)


@pytest.mark.parametrize('source', ['./gone', '../gone', '/gone', 'a/b/c', '~/gone', '', 'a b', '.hidden', 'a/../b'])
def test_what_is_neither_is_not_asked_for(asked, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(f'--source={source}: no such folder, and no name')):
        hub.folder(source)
    assert asked == []


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(b'')
    with pytest.raises(UserError, match='is a file; name the folder that it lies in'):
        hub.folder(str(tmp_path / 'model.safetensors'))


def test_without_the_package_the_way_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(UserError, match=r"fetching from the hub takes: pip install -e '\.\[hf\]'"):
        hub.folder('gpt2')


def test_without_a_network_the_way_is_said(monkeypatch):
    def snapshot_download(*_, **__):
        raise OSError('no route\nto host')

    monkeypatch.setitem(sys.modules, 'huggingface_hub', types.SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(UserError, match=r'the hub does not give it \(no route to host\); fetch it elsewhere') as error:
        hub.folder('gpt2')
    assert '\n' not in str(error.value)
