"""How is an English message said in another language? Real messages of the programs that are installed here.

Programs carry their messages' translations in gettext catalogues (/usr/share/locale), made by people; of the languages
that many know, the one with the most messages here is taken. Where fewer than FEWEST are installed, as in a bare
container, the pairs are those of made:grammar, whose language nobody speaks. The column 'language' says which it is.

What it is not: prose. Messages are short, of computers, and some are names. It differs between machines, with what is
installed; a result on it can be repeated where the catalogues are the same, which the data's fingerprint tells.
"""

import gettext
import hashlib
import re
import sys
from pathlib import Path

from gpt_jax.data.made import grammar
from gpt_jax.data.made.splits import Splits, empty, split_of

LANGUAGES = ('de', 'fr', 'es', 'it', 'pt_BR', 'nl', 'sv', 'ru', 'pl')
FEWEST, MOST = 2000, 20_000
LONGEST = 200  # characters of a message
_NAME_ALONE = re.compile(r'[\W\d_]*|\S+')  # no letters, or a single word


def rows(stdlib: Path) -> Splits:
    """Rows with 'source' (English), 'target' and 'language' ('de', ..., or 'made')."""
    found = {language: messages(folders(), language) for language in LANGUAGES}
    language = max(LANGUAGES, key=lambda one: len(found[one]))
    if len(found[language]) < FEWEST:
        return {split: [row | {'language': 'made'} for row in made] for split, made in grammar.rows(stdlib).items()}
    made = empty()
    chosen = sorted(found[language], key=lambda source: hashlib.sha256(source.encode('utf-8')).digest())[:MOST]
    for source in sorted(chosen):
        target = found[language][source]
        made[split_of(source)].append({'source': source, 'target': target, 'language': language})
    return made


def folders() -> list[Path]:
    """Where catalogues lie: of the system, and of the running Python."""
    return [
        Path(one) / 'share' / 'locale' for one in dict.fromkeys(('/usr', '/usr/local', sys.prefix, sys.base_prefix))
    ]


def messages(where: list[Path], language: str) -> dict[str, str]:
    """English messages of more than one word to their translations, from all catalogues of a language."""
    found: dict[str, str] = {}
    for folder in where:
        for path in sorted(folder.glob(f'{language}/LC_MESSAGES/*.mo')):
            for source, target in _catalogue(path).items():
                if isinstance(source, str) and source not in found and _fits(source) and _fits(target):
                    found[source] = target
    return {source: target for source, target in found.items() if source != target}


def _catalogue(path: Path) -> dict[object, str]:
    try:
        with open(path, 'rb') as file:
            return dict(getattr(gettext.GNUTranslations(file), '_catalog', {}))  # has no other way to list it
    except (OSError, UnicodeDecodeError, ValueError, LookupError):  # not a catalogue, or in letters nobody knows
        return {}


def _fits(text: str) -> bool:
    return 0 < len(text) <= LONGEST and '\n' not in text and '\x04' not in text and not _NAME_ALONE.fullmatch(text)
