"""What does each letter mean? The one legend of tensor dimensions; a tensor's name carries its letters (`q_BLHK`)."""

LEGEND = {
    'B': 'batch (sequences)',
    'L': 'length (tokens of a sequence; queries in attention)',
    'M': 'memory (keys and values in attention)',
    'D': 'model width',
    'H': 'query heads',
    'G': 'key/value heads',
    'R': 'query heads per key/value head, H / G',
    'S': 'rows of scores that share keys: R x L',
    'K': 'width of one head',
    'F': 'feed-forward width',
    'V': 'vocabulary (rows of the embedding)',
    'E': 'experts',
    'U': 'width of the shared experts together',
    'C': 'capacity of an expert',
    'N': 'layers',
    'J': 'beams of a prompt',
    'Q': 'what is proposed: continuations of beams, tokens of a draft',
    'W': 'window of the data: the L + 1 tokens that inputs and targets are cut from',
    'A': 'microbatches accumulated in one step',
}
