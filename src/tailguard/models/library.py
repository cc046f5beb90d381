"""The typed seam to transformers and peft: what we ask of their objects, and how they are loaded.

Both libraries hand out objects whose types depend on the checkpoint, so that a checker sees
``Any``. That stops here: the protocols below name the few members that Tailguard uses.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor, nn

from tailguard.errors import InputError
from tailguard.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import AddedToken, BatchEncoding

    class ModelOutput(Protocol):
        """What a forward pass gives; which of these is there depends on the model's head."""

        logits: Tensor
        last_hidden_state: Tensor
        hidden_states: Sequence[Tensor]

    class LanguageModel(Protocol):
        """A transformers model, bare or inside peft: a causal LM or a sequence classifier."""

        training: bool

        @property
        def config(self) -> Any:
            """Its fields differ from one architecture to the next."""
            ...

        @property
        def device(self) -> torch.device:
            """Where its weights are."""
            ...

        @property
        def base_model(self) -> Callable[..., ModelOutput]:
            """The layers without their head."""
            ...

        @property
        def forward(self) -> Callable[..., object]:
            """Whose signature tells what it takes."""
            ...

        def __call__(self, *args: Any, **inputs: Any) -> ModelOutput:
            """One forward pass."""
            ...

        def eval(self) -> Self:
            """Dropout off."""
            ...

        def train(self, mode: bool = True) -> Self:
            """Dropout on."""
            ...

        def requires_grad_(self, requires_grad: bool = True) -> Self:
            """Whether its weights take gradients."""
            ...

        def parameters(self) -> Iterator[nn.Parameter]:
            """Its weights."""
            ...

        def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
            """Its parts, by dotted name."""
            ...

        def get_input_embeddings(self) -> nn.Module:
            """The first layer."""
            ...

        def get_output_embeddings(self) -> nn.Module | None:
            """The last layer, which makes hidden states logits; None where it has another name."""
            ...

        def save_pretrained(self, save_directory: str) -> object:
            """Write it to a folder."""
            ...

    class Tokenizer(Protocol):
        """A transformers tokenizer; its special tokens are read by `special_token_id`."""

        @property
        def chat_template(self) -> object:
            """None where prompts are plain text."""
            ...

        @property
        def model_max_length(self) -> int:
            """1e30 where no limit is known."""
            ...

        def __call__(self, text: Any, *args: Any, **options: Any) -> Mapping[str, list[Any]]:
            """Texts as ``input_ids``."""
            ...

        @property
        def apply_chat_template(self) -> Callable[..., Any]:
            """A chat as text."""
            ...

        @property
        def batch_decode(self) -> Callable[..., list[str]]:
            """Token ids to texts."""
            ...

        def get_vocab(self) -> dict[str, int]:
            """Token to id."""
            ...

        @property
        def pad(self) -> Callable[..., BatchEncoding]:
            """Rows of different lengths as one batch."""
            ...

        def save_pretrained(self, save_directory: str) -> object:
            """Write it to a folder."""
            ...

else:
    # The tests check types at runtime too; a test double has only what its test uses.
    LanguageModel = ModelOutput = Tokenizer = Any


LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError)
"""What transformers raises at checkpoints that it cannot read; the messages are the library's."""


class Loaded(NamedTuple):
    """A model in evaluation mode, and where its checkpoint does not fit it.

    Transformers fills what is missing with random numbers, and only logs that and what is left over.

    Attributes:
        model: as loaded.
        missing: names of weights that the checkpoint lacks.
        unused: names of its weights that the model has no place for.
    """

    model: LanguageModel
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def load_config(path: str, *, trust_remote_code: bool = False) -> Any:
    """A checkpoint's config, without its weights."""
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, path, trust_remote_code=trust_remote_code)


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Tokenizer:
    """A checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    return _from_pretrained(AutoTokenizer, path, trust_remote_code=trust_remote_code)


def require_decoder(path: str, *, trust_remote_code: bool = False) -> None:
    """Refuse a checkpoint whose config is not that of a decoder that predicts text.

    Raises:
        InputError: an encoder-decoder, or a class that transformers knows no causal LM for.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = load_config(path, trust_remote_code=trust_remote_code)
    kind: Any = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{kind} is an encoder-decoder; give a decoder-only causal LM")
    own = trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not own and type(config) not in cast(Any, MODEL_FOR_CAUSAL_LM_MAPPING):
        raise InputError(
            f"{kind} is no causal LM of transformers; give one, or save the text decoder of this"
            " model on its own"
        )


def load_causal_lm(
    path: str, *, device: torch.device, dtype: torch.dtype | None, trust_remote_code: bool = False
) -> Loaded:
    """A causal LM; None as the precision is that of the checkpoint."""
    from transformers import AutoModelForCausalLM

    loaded = _load(
        AutoModelForCausalLM, path, dtype=dtype or "auto", trust_remote_code=trust_remote_code
    )
    return loaded._replace(model=move_model(loaded.model, device))


def load_classifier(
    path: str, *, allow_pickle: bool = False, trust_remote_code: bool = False, **options: object
) -> Loaded:
    """A sequence classifier in float32; options as transformers', such as ``num_labels``."""
    from transformers import AutoModelForSequenceClassification

    return _load(
        AutoModelForSequenceClassification,
        path,
        dtype=torch.float32,
        use_safetensors=None if allow_pickle else True,
        trust_remote_code=trust_remote_code,
        **options,
    )


def _load(kind: object, path: str, **options: object) -> Loaded:
    with quiet_transformers():
        options = {"use_safetensors": True} | options
        model, info = _from_pretrained(kind, path, output_loading_info=True, **options)
    missing, unused = (tuple(sorted(info[f"{kind}_keys"])) for kind in ("missing", "unexpected"))
    return Loaded(model.eval(), missing, unused)


def _from_pretrained(kind: object, *where: object, **options: object) -> Any:
    """``from_pretrained``, whose result's type depends on the checkpoint."""
    return cast(Any, kind).from_pretrained(*where, **options)


def move_model(model: LanguageModel, device: torch.device) -> LanguageModel:
    """The model, its weights on this device."""
    return cast(Any, model).to(device)


@contextmanager
def only_columns(model: LanguageModel, columns: Tensor) -> Generator[None]:
    """Logits of forward passes inside at chosen columns [n, k] of each row alone: [n, k, vocab].

    At every position they would take more memory than the model, and not every model can be asked
    for a few; none can for others in each row.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise InputError(f"policy: {type(model).__name__} names no output layer; use another model")

    def choose(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = given[0]
        rows = torch.arange(len(states), device=states.device)[:, None]
        return (states[rows, columns], *given[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def special_token_id(tokenizer: Tokenizer, name: str) -> int | None:
    """The id of the ``pad``, ``eos`` or another named token; None where the tokenizer has none.

    Transformers computes these attributes on access, where no checker sees them.
    """
    found: int | None = getattr(tokenizer, f"{name}_token_id", None)
    return found


def special_token_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids of all special tokens, named and unnamed."""
    return {int(found) for found in cast(Any, tokenizer).all_special_ids}


def added_tokens(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    """The tokens that are found in a text before the rest of it is split, by id."""
    return dict(cast(Any, tokenizer).added_tokens_decoder)


def token_spans(tokenizer: Tokenizer, text: str, ids: Container[int]) -> list[tuple[int, int]]:
    """Where in the text its tokens of these ids stand; none where the tokenizer cannot tell.

    Only those written in Rust can. The others look for added tokens in the text as it is.
    """
    if not cast(Any, tokenizer).is_fast:
        return []
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [(start, end) for token, (start, end) in spans if token in ids and start < end]


def pad_with_end(tokenizer: Tokenizer) -> int:
    """The id of the pad token, which becomes the end token where there was none.

    Raises:
        InputError: there is no end token either.
    """
    if special_token_id(tokenizer, "pad") is None:
        cast(Any, tokenizer).pad_token = getattr(tokenizer, "eos_token", None)
    found = special_token_id(tokenizer, "pad")
    if found is None:
        raise InputError("tokenizer: has neither a pad token nor an end token; set one")
    return found


def score_layer(model: LanguageModel) -> nn.Linear | None:
    """The linear layer that makes a decoder's pooled state a score; None in other designs."""
    layer = getattr(model, "score", None)
    return layer if isinstance(layer, nn.Linear) else None


def decoder_layers(model: LanguageModel) -> list[nn.Module] | None:
    """The stack of layers, first to last; None where it has another name."""
    layers = getattr(model.base_model, "layers", None)
    return list(layers) if isinstance(layers, nn.ModuleList) else None


def without_adapter(model: LanguageModel) -> LanguageModel:
    """The model inside a peft wrapper, with its adapter's layers; another model as it is."""
    inside = getattr(model, "get_base_model", None)
    return model if inside is None else inside()


@contextmanager
def output_layer_inputs(
    model: LanguageModel, num_logits: int | None = None
) -> Generator[list[Tensor]]:
    """What meets the output layer in each call inside the block; stays empty where there is none.

    The layer then makes logits at the last ``num_logits`` positions alone.
    """
    met: list[Tensor] = []
    layer = model.get_output_embeddings()
    if layer is None:
        yield met
        return

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        met.append(inputs[0])
        return None if num_logits is None else (inputs[0][:, -num_logits:], *inputs[1:])

    hook = layer.register_forward_pre_hook(keep)
    try:
        yield met
    finally:
        hook.remove()
