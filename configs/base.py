"""Every knob and its default. A config file starts from this one and says only what differs.

Override any of them on the command line: `python run.py --config=configs/gpt_tiny.py --config.model.width=256`.
A 0 that is called automatic is filled in from the other values; tokens, batch and context are counted in tokens and
sequences, never in bytes.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = 'gpt'  # names the run and its default workdir, runs/NAME
    config.seed = 0  # decides initialization, batches and dropout
    # A run's folder, imported ones too: begin with its weights, all else afresh. For a task also a folder or a name of
    # Hugging Face's; the model's shape and the tokenizer are then those of the weights.
    config.init_from = ''

    config.model = model = ConfigDict()
    model.layers = 4
    model.width = 128
    model.heads = 4
    model.kv_heads = 0  # key/value heads (grouped-query attention); 0: as many as heads
    model.head_dim = 0  # 0: width / heads
    model.mlp_width = 0  # 0: 4 x width; gated: 8/3 x width, rounded up to a multiple of 8; of one expert
    model.vocab_size = 0  # 0: the tokenizer's
    model.vocab_multiple = 1  # the embedding's rows are padded to a multiple of this (128 is fast on most hardware)
    model.context = 256  # tokens of one sequence
    model.block = 'pre_norm'  # pre_norm, post_norm (GPT-1), parallel (both branches from one norm)
    model.norm = 'layer'  # layer, rms
    model.norm_epsilon = 1e-5
    model.final_norm = True  # a norm before the head
    model.position = 'learned'  # learned, rotary, alibi, none
    model.rotary_base = 10_000.0  # wavelengths run from 2 pi to 2 pi x this
    model.rotary_fraction = 1.0  # of each head's dims that are turned
    model.rotary_scaling = 'none'  # none, linear, ntk, llama3, yarn: how a longer context is reached
    model.rotary_factor = 1.0  # how many times longer
    model.rotary_original_context = 0  # than this; 0: than the context
    model.attention = 'multi_head'
    model.attention_kernel = 'chunked'  # chunked (XLA, any device), cudnn (NVIDIA, bfloat16), splash (TPU)
    model.attention_chunk = 64  # queries per chunk of the chunked kernel, and per block of splash; 0: all at once
    model.attention_pattern = ('full',)  # full, window: the layers' kinds in turn, ('full', 'window') as in GPT-3
    model.window = 0  # keys that a window layer's query sees, its own included
    model.attention_softcap = 0.0  # scores are bent to stay within +-this; 0: off
    model.attention_sink = False  # a learned score per head that takes weight and gives nothing
    model.qk_norm = False  # an RMS norm over each head's query and key
    model.feedforward = 'mlp'  # mlp, gated, experts
    model.activation = (
        'gelu'  # gelu (tanh form), gelu_exact, relu, squared_relu, silu (gated: SwiGLU), sigmoid, identity
    )
    model.experts = 0  # routed experts, each a gated feed-forward of mlp_width
    model.experts_per_token = 2
    model.shared_experts = 0  # experts that every token takes
    model.capacity_factor = 0.0  # in training: slots of an expert, over its fair share; 0: dropless
    model.normalize_experts = True  # the weights of the chosen experts sum to 1
    model.load_balance = 0.01  # coefficient of the loss that evens out the experts
    model.router_z = 0.001  # coefficient of the loss that keeps the router's logits small
    model.bias = True  # biases in norms and matrices
    model.qkv_bias = False  # biases in query, key and value where the others are off
    model.tied_head = True  # the head is the token embedding
    model.logit_softcap = 0.0  # logits are bent to stay within +-this; 0: off
    model.z_loss = 0.0  # coefficient of log(Z)^2, which keeps the logits' normalizer near 1
    model.dropout = 0.0  # on the embedding and on both branches of a block
    model.init_std = 0.02
    model.parametrization = 'standard'  # standard, mup, completep: how init, rates and decay follow from the shape
    model.base_width = 0  # mup, completep: the width whose init_std and rates are given; 0: this model's own
    model.base_layers = 0  # completep: the depth that they are given for
    model.base_head_dim = 0  # mup, completep: the head dim that they are given for
    model.activation_dtype = 'float32'  # float32, bfloat16: what flows between the operations
    model.matmul_dtype = 'float32'  # float32, bfloat16: the operands of matrix products (sums are float32)
    model.scan_layers = False  # True: the layers are one rolled-up loop (compiles faster; deep models)
    model.remat = 'none'  # none, dots (keep matrix products), block (keep only the blocks' inputs)
    model.loss_chunk = 0  # positions whose logits exist at one time; 0: all

    config.data = data = ConfigDict()
    data.source = 'tfds:python_stdlib'  # tfds:NAME[/CONFIG], or files:GLOB[,GLOB] (.txt .jsonl .jsonl.gz .parquet)
    data.validation_source = ''  # like source; '': the source's own validation split, or carved from it
    data.validation_fraction = 0.1  # how much is carved
    data.holdout = 'documents'  # what is carved: documents (by hash), tail (the end of the text)
    data.text_field = 'text'  # the column that holds the text
    data.tokenizer = (
        'bytes'  # bytes, bpe:SIZE (trained on the source), a tokenizer.json, a vocab.json + merges.txt folder
    )
    data.packing = 'concatenate'  # concatenate, isolate (attention and positions restart at each document)
    data.cache = ''  # folder of tokenized text; '': the user's cache folder

    config.task = task = ConfigDict()
    task.kind = 'none'  # none (text alone: pre-training), answer, classify, choose (one of several), label, prefer
    task.source = ''  # tfds:NAME[/CONFIG], made:NAME (gpt_jax/data/made/), files:GLOB[,GLOB] (.jsonl .jsonl.gz .csv)
    task.validation_source = ''  # like source; '': the source's own validation split, or carved from it
    task.validation_fraction = 0.1  # how much is carved, by a hash of the rows
    task.prompt = ''  # of templates, this and those below: columns in braces, '{question}' or '{answers[text][0]}'
    task.answer = ''  # answer: what is learned; {label} is the label's word
    task.references = ''  # answer: a column that lists all right answers; '': the answer alone
    task.second = ''  # classify: the second text of a pair
    task.symmetric = False  # classify: the pair is read both ways round (similarity)
    task.choices = ()  # choose: a template each; or a single one, of a column that lists them
    task.label = ''  # classify, choose, answer: the column with the class or the right choice, by number or by word
    task.labels = ()  # words of the labels, number 0 first; label: of the tags
    task.words = ''  # label: the column that lists the words
    task.tags = ''  # label: the column that lists their tags
    task.chosen = ''  # prefer: the better text
    task.rejected = ''  # prefer: the other
    task.messages = ''  # answer: a column of turns, {'role': 'user', 'content': ...}; the assistant's are learned
    task.chat = False  # prompts and answers are put into the chat template of the tokenizer
    task.cut = 'left'  # left, right: the side from which a prompt is cut that leaves no room in the context
    task.program = ''  # answer: a whole program around what is {written}, which passes or not (pass@k)
    task.limit = 0  # training examples used; 0: all
    task.written = 200  # answer: validation examples whose answers are written and scored at the end; 0: none
    task.metrics = ()  # gpt_jax/evaluate/metrics.py; the first judges checkpoints, but of answers the loss does
    task.auxiliary = 0.0  # coefficient of the loss of the text itself beside the task's (GPT-1: 0.5)
    task.beta = 0.1  # prefer: how far the model is held to where it began (DPO)

    config.suite = suite = ConfigDict()
    suite.tasks = ()  # asked while a model is trained: configs/finetune/NAME.py by NAME, or a config file's path
    suite.every = 0  # steps between two times; 0: at the end alone
    suite.examples = 200  # validation examples of each that are asked, always the same; 0: all
    suite.shots = 0  # training examples with their answers that are shown before each
    suite.seed = 0  # decides which
    suite.overlap = 13  # words in a row that, found in the training text, make a question dirty; 0: do not look

    config.tune = tune = ConfigDict()
    tune.train = ()  # weights that are trained, by name: 'norm', 'blocks[6:12]' (gpt_jax/finetune/names.py); (): all
    tune.freeze = ()  # and what of them is not
    tune.layer_decay = 1.0  # the rate of a layer over that of the layer above it
    tune.rank = 0  # of adapters (LoRA), beside which () above is none; 0: without
    tune.alpha = 16.0  # an adapter's product is multiplied with alpha / rank
    tune.targets = ('query', 'value')  # matrices that have adapters and stay as they are, by name; 'all-linear'
    tune.dropout = 0.0  # of what goes into the adapters
    tune.rank_stabilized = False  # alpha / sqrt(rank) instead (rsLoRA)

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = 'adamw'  # adamw, sgd
    optimizer.learning_rate = 1e-3  # the peak
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.95
    optimizer.epsilon = 1e-8
    optimizer.weight_decay = 0.1  # on matrices and embeddings, not on scales and biases
    optimizer.clip = 1.0  # global gradient norm; 0: off
    optimizer.schedule = 'cosine'  # cosine, linear, wsd (constant, then cooldown), constant
    optimizer.warmup_fraction = 0.02  # of the run's steps
    optimizer.decay_fraction = 1.0  # where in the run the final rate is reached
    optimizer.cooldown_fraction = 0.2  # of the run, for wsd
    optimizer.final_fraction = 0.1  # final rate / peak rate

    config.train = train = ConfigDict()
    train.batch = 32  # sequences per step, over all devices
    train.microbatch = 0  # sequences per device at a time, gradients accumulated; 0: all of the device's share
    train.steps = 0  # 0: as many as `tokens` needs
    train.tokens = 2_000_000  # used where steps is 0
    train.flops = 0.0  # used where both are 0: training FLOPs, 6 per parameter (positions apart) and token
    train.log_every = 10  # steps between lines of metrics.jsonl
    train.evaluate_every = 0  # steps between validations; 0: only at the end
    train.evaluate_tokens = 0  # validation tokens used, of text; 0: all
    train.evaluate_batch = 0  # sequences per validation batch; 0: train.batch
    train.checkpoint_every = 500  # steps; there is always one at the end and on SIGTERM
    train.keep_checkpoints = 2
    train.patience = 0  # validations without a better score before the run ends; 0: it goes on to its last step
    train.keep_best = False  # the checkpoint with the best validation score is kept, too, and used from then on
    train.keep_steps = ()  # steps whose checkpoints are saved and never removed: where branches begin
    train.branch_from = ''  # a run's folder, or another trial's name: begin with its checkpoint of `branch_step`
    train.branch_step = 0
    train.max_skipped_in_row = 10  # non-finite steps in a row before the run stops
    train.tensorboard = True
    train.stall_minutes = 15.0  # of several processes: without a step for so long, or one lost, all leave with 75

    config.mesh = mesh = ConfigDict()
    mesh.strategy = 'replicated'  # replicated, zero1, fsdp: the table of parallel/rules.py; auto: chosen, with the mesh
    mesh.slice = 1  # parts of the machine with a slow network between them, each with its share of the batch
    mesh.data = 0  # devices that share the batch; 0 (of any axis): all that are left
    mesh.fsdp = 1  # with strategy fsdp or zero1: devices that share the batch and the weights
    mesh.expert = 1  # that share the batch and the experts
    mesh.pipeline = 1  # that share the batch and the layers; train.microbatch is what goes through them
    mesh.context = 1  # that share the length of a text
    mesh.tensor = 1  # that share heads, feed-forward width and vocabulary
    mesh.long = 'ring'  # ring, all_to_all: how attention goes over mesh.context
    mesh.cpu_devices = 0  # JAX devices made of this machine's CPU where there is no other; 0: one per core

    config.benchmark = benchmark = ConfigDict()
    benchmark.steps = 20  # timed steps, after as many as `warmup`; 0: no training is timed
    benchmark.warmup = 3
    benchmark.peak_flops = 0.0  # the device's matrix FLOP/s in matmul_dtype; 0: known by the device's name, or measured
    benchmark.prompt = 32  # tokens read before writing
    benchmark.new_tokens = 128  # written; 0: no generation is timed
    benchmark.batches = (1, 8)  # texts written at once, each timed
    benchmark.weights = 'float32'  # float32, bfloat16, int8, int4: how matrices are kept while writing

    config.sweep = sweep = ConfigDict()
    sweep.trials = ()  # one dict per trial: name, and dotted config keys with their values (see scaling/plan/design.py)
    sweep.together = 1  # so many trials that differ in seed and learning rate alone train at once, in one process
    sweep.hang_minutes = 30.0  # a trial without a sign of life for so long is stopped and passed over; 0: never
    sweep.hours = 0.0  # of all trials together, over all calls; 0: no limit
    sweep.flops = 0.0  # training FLOPs of all trials together; 0: no limit
    sweep.stale_minutes = 2.0  # a trial whose process elsewhere shows no life for so long is taken up again
    return config
