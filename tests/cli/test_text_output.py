"""Generated texts on standard output and in files."""

import os
from pathlib import Path

import pytest

import gpt_jax
from gpt_jax.cli import text_output
from gpt_jax.core.errors import UserError
from gpt_jax.inference.options import make_options
from gpt_jax.inference.text_stream import GeneratedText, TokenChunk
from tests import trained


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return gpt_jax.load(trained.folder(tmp_path_factory.mktemp('runs') / 'run'))


def chunk(number, piece, last=False):
    return TokenChunk(
        number, piece, GeneratedText('', '', '', (), (), 'length', 0) if last else None
    )


def test_texts_are_printed_one_after_the_other():
    chunks = [
        chunk(1, 'b1'),
        chunk(0, 'a1'),
        chunk(2, 'c', True),
        chunk(0, 'a2'),
        chunk(0, '', True),
        chunk(1, 'b2'),
        chunk(1, 'b3', True),
    ]
    pieces = list(text_output.interleave_pieces(chunks, ['A', 'B', 'C']))
    assert ''.join(pieces) == 'Aa1a2\n\nBb1b2b3\n\nCc\n'
    assert pieces.index('a1') < pieces.index('a2')  # as it came, not at the end


class ClosingWriter:
    """Writes two texts; the pipe `reader` is closed between them."""

    def __init__(self, reader):
        self.reader = reader

    def stream_chunks(self, *_, **__):
        yield chunk(0, 'a', True)
        os.close(self.reader)
        yield chunk(1, 'b', True)


def test_a_closed_pipe_ends_the_output_quietly(monkeypatch):
    for show in (True, False):
        reader, writer = os.pipe()
        with open(writer, 'w') as into, monkeypatch.context() as patched:
            patched.setattr('sys.stdout', into)
            if show:
                text_output.print_texts(ClosingWriter(reader), ['A', 'B'], make_options({}))
                print('this goes nowhere', flush=True)
            else:
                assert not text_output.record_texts(
                    ClosingWriter(reader), ['A', 'B'], make_options({}), Path(f'/dev/fd/{writer}')
                )


def test_a_full_disk_is_one_line(model, monkeypatch):
    chosen = make_options({'max_new_tokens': 5})
    with pytest.raises(UserError, match=r'^--output=/dev/full: No space left on device'):
        text_output.record_texts(model, ['a'], chosen, Path('/dev/full'))
    with open('/dev/full', 'w') as into, monkeypatch.context() as patched:
        patched.setattr('sys.stdout', into)
        with pytest.raises(UserError, match=r'^standard output: No space left on device'):
            text_output.print_texts(model, ['a'], chosen)
