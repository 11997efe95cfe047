"""Which pairs of sentences do the published sets hold? Readers of their files, which lie with you: none is fetched."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.evaluate.bias import Pair

_BRACKETS = re.compile(r'[][]')
_PRONOUN = re.compile(r'\[\s*(he|him|his|she|her|hers)\s*\]', re.IGNORECASE)
HE = ('he', 'him', 'his')


def crows_pairs(path: str | Path) -> list[Pair]:
    """CrowS-Pairs (Nangia et al. 2020), its CSV: `sent_more` is the stereotype whatever `stereo_antistereo` says, which
    tells whether the group at a disadvantage is in that sentence or in the other. kind: `bias_type`.

    Raises:
      UserError: no such file, or no such columns.
    """
    pairs = []
    reader = csv.DictReader(io.StringIO(_text(Path(path)), newline=''))  # its first column has no name
    for row in reader:
        for column in ('sent_more', 'sent_less', 'bias_type'):
            if not row.get(column):
                where = f'{path}:{reader.line_num}'
                raise UserError(f'{where}: no {column!r}; CrowS-Pairs has sent_more, sent_less and bias_type')
        pairs.append(Pair(row['sent_more'], row['sent_less'], row['bias_type']))
    if not pairs:
        raise UserError(f'{path}: holds no pair of sentences')
    return pairs


def winobias(pro: str | Path, anti: str | Path) -> list[Pair]:
    """WinoBias (Zhao et al. 2018), its two text files, paired by line. Brackets, and a number in front, are left out.

    Some published pairs differ in more than the pronoun, by mistakes of spelling; they are taken as they are.
    kind: 'he' or 'she', the pronoun of the sentence that agrees with the stereotype.

    Raises:
      UserError: no such file, another number of lines, a line without a pronoun in brackets.
    """
    sides = [_lines(Path(path)) for path in (pro, anti)]
    if len(sides[0]) != len(sides[1]):
        raise UserError(f'{anti}: {len(sides[1])} sentences, where {pro} has {len(sides[0])}; they are paired by line')
    pairs = []
    for (place, more), (_, less) in zip(*sides, strict=True):
        found = _PRONOUN.search(more)
        if not found:
            raise UserError(f'{place}: no [he], [she] or another pronoun in brackets, as WinoBias has')
        kind = 'he' if found[1].lower() in HE else 'she'
        pairs.append(Pair(_plain(more), _plain(less), kind))
    return pairs


def stereoset(path: str | Path) -> list[Pair]:
    """StereoSet (Nadeem et al. 2021), its JSON: of each context the stereotype and the anti-stereotype; the unrelated
    sentence is left out. A sentence that follows the context stands behind it. kind: `bias_type`.

    Raises:
      UserError: no such file, or not that layout.
    """
    try:
        held = json.loads(_text(Path(path)))['data']
        both = [(example, f'{example["context"]} ') for example in held['intersentence']]
        both += [(example, '') for example in held['intrasentence']]
        return [_of_three(example, before) for example, before in both]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not the layout of StereoSet ({type(error).__name__}: {error})') from None


def _of_three(example: dict[str, Any], before: str) -> Pair:
    by_label = {one['gold_label']: before + one['sentence'] for one in example['sentences']}
    return Pair(by_label['stereotype'], by_label['anti-stereotype'], example['bias_type'])


def _lines(path: Path) -> list[tuple[str, str]]:
    lines = [(f'{path}:{number}', line.strip()) for number, line in enumerate(_text(path).splitlines(), 1)]
    return [(place, line) for place, line in lines if line]


def _plain(line: str) -> str:
    return ' '.join(_BRACKETS.sub('', re.sub(r'^\d+\s+', '', line)).split())


def _text(path: Path) -> str:
    try:
        return path.read_text('utf-8')
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not UTF-8 at byte {error.start}') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None
