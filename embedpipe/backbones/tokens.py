"""From a text to token ids: prompt, tokenizer, and what happens to a text that is too long.

A text is cut at its longest length, and counted; or it is laid out as windows that overlap, one row each. Knows
nothing of models.
"""

# L tokens

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import OrderedDict
from typing import Any, Protocol

import torch

from embedpipe.backbones.staging import Staging
from embedpipe.errors import ConfigError, UnreadableSample
from embedpipe.spec import canonical_json

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
"""Relative L2 by which a text's features may depend on the texts that it shares a batch with. On a CPU none do: a
batch has the same shape whatever is in it. A device may choose another kernel where one runs out of memory."""
_WHERE = ("name_or_path", "is_local", "local_files_only")  # where a tokenizer lies, not what it does
_KEPT = 64  # texts whose windows are kept while they are read one after the other


class Encoder(Protocol):
    """A tokenizer, fast or slow."""

    name: str

    def digest(self) -> str:
        """Of all that decides its ids."""
        ...

    def windows(self, text: str, longest: int, overlap: int) -> list[list[int]]:
        """Ids with special tokens: the first `longest`, and more windows where the text goes on."""
        ...

    def num_special(self) -> int:
        """Tokens that are added to each window."""
        ...


class FastEncoder:
    """A tokenizer of the `tokenizers` library.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Not changed: a copy is.
    """

    def __init__(self, tokenizer: Any) -> None:
        import tokenizers

        self.name = f"tokenizers {tokenizers.__version__}"
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._digest = hashlib.blake2b(self._tokenizer.to_str().encode(), digest_size=16).hexdigest()
        self._cut: dict[tuple[int, int], Any] = {}

    def digest(self) -> str:
        return self._digest

    def to_json(self) -> str:
        """The tokenizer as the `tokenizers` library writes it."""
        return str(self._tokenizer.to_str())

    def windows(self, text: str, longest: int, overlap: int) -> list[list[int]]:
        if (longest, overlap) not in self._cut:
            import tokenizers

            cutting = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
            cutting.enable_truncation(longest, stride=overlap)
            self._cut[longest, overlap] = cutting
        first = self._cut[longest, overlap].encode(text)
        return [first.ids, *(one.ids for one in first.overflowing)]

    def num_special(self) -> int:
        return int(self._tokenizer.num_special_tokens_to_add(False))


class SlowEncoder:
    """A tokenizer written in Python, of the transformers library."""

    def __init__(self, tokenizer: Any) -> None:
        import transformers

        self.name = f"transformers {transformers.__version__}"
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # some keep state while they encode

    def digest(self) -> str:
        tokenizer = self._tokenizer
        told = [
            type(tokenizer).__name__,
            tokenizer.get_vocab(),
            {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
            {
                key: value
                for key, value in tokenizer.init_kwargs.items()
                if isinstance(value, (bool, int, str)) and key not in _WHERE and not key.endswith("_file")
            },
        ]
        # of a vocabulary of characters, some are halves of a pair
        said = canonical_json(told).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(said, digest_size=16).hexdigest()

    def windows(self, text: str, longest: int, overlap: int) -> list[list[int]]:
        with self._lock:
            ids = self._tokenizer.encode(text, add_special_tokens=False)
            room = longest - self.num_special()
            starts = range(0, max(1, len(ids) - overlap), max(1, room - overlap))
            return [self._tokenizer.build_inputs_with_special_tokens(ids[i : i + room]) for i in starts]

    def num_special(self) -> int:
        return int(self._tokenizer.num_special_tokens_to_add(False))


@dataclasses.dataclass
class Cut:
    """Texts that were longer than the longest; shared by all copies of the inputs."""

    num: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def add(self, num: int = 1) -> None:
        with self.lock:
            self.num += num


class TokenInputs:
    """Texts as token ids.

    Parameters
    ----------
    max_length : int
        Tokens of the longest text, special ones included.
    prompt : str
        Put before each text.
    windows : (tokens, overlap), optional
        A text of more than `tokens` is several rows, each of which repeats the last `overlap` tokens of the one
        before. Without, it is cut.
    """

    modality = "text"

    def __init__(
        self,
        encoder: Encoder,
        max_length: int,
        *,
        prompt: str = "",
        windows: tuple[int, int] | None = None,
    ) -> None:
        self._encoder, self.max_length, self.prompt, self.window = encoder, max_length, prompt, windows
        self.decoder: str | None = encoder.name
        self.staging = Staging.of_texts(max_length if windows is None else windows[0])
        self.cut = Cut()
        self._recent: OrderedDict[str, list[list[int]]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def tokenizer_json(self) -> str | None:
        """Content of a ``tokenizer.json`` that gives the same ids; None of a tokenizer written in Python."""
        return self._encoder.to_json() if isinstance(self._encoder, FastEncoder) else None

    def with_windows(self, tokens: int, overlap: int, where: str) -> TokenInputs:
        """These inputs with long texts as windows.

        Raises
        ------
        ConfigError
            If the model takes fewer tokens, or overlap and special tokens leave nothing new to a window.
        """
        if tokens > self.max_length:
            raise ConfigError(
                f"{where}.tokens: expected at most {self.max_length}, as the model takes, found {tokens}"
            )
        room = tokens - self._encoder.num_special()
        if overlap >= room:
            raise ConfigError(
                f"{where}.overlap: expected less than the {room} tokens of text in a window, found {overlap}"
            )
        return TokenInputs(self._encoder, self.max_length, prompt=self.prompt, windows=(tokens, overlap))

    def stage(self, sample: Any, part: int = 0) -> torch.Tensor:
        """Token ids, int32 (L,), of one text or of one window of it."""
        windows = self._windows(sample)
        ids = windows[part] if part < len(windows) else []
        if not ids:
            raise UnreadableSample("no tokens: the tokenizer knows nothing in this text")
        if self.window is None and len(windows) > 1:
            self.cut.add()
        return torch.tensor(ids, dtype=torch.int32)

    def num_windows(self, text: str) -> int:
        """Rows that a text takes."""
        return 1 if self.window is None else len(self._encoded(text))

    def prepare(self, staged: torch.Tensor) -> torch.Tensor:
        return staged

    def canonical(self) -> str:
        steps: dict[str, Any] = {
            "tokenizer": self._encoder.digest(),
            "max_length": self.max_length,
            "prompt": self.prompt,
            "padded_to": list(self.staging.lengths),
            "batch_tolerance": TOLERANCE,
        }
        if self.window is not None:
            steps["windows"] = {"tokens": self.window[0], "overlap": self.window[1]}
        return canonical_json(steps)

    def _windows(self, text: Any) -> list[list[int]]:
        if not isinstance(text, str):
            raise UnreadableSample(f"expected a text, found {type(text).__name__}")
        if self.window is None:
            return self._encoded(text)
        with self._lock:
            known = self._recent.get(text)
        if known is not None:
            return known
        windows = self._encoded(text)
        if len(windows) > 1:
            with self._lock:
                self._recent[text] = windows
                while len(self._recent) > _KEPT:
                    self._recent.popitem(last=False)
        return windows

    def _encoded(self, text: str) -> list[list[int]]:
        longest, overlap = self.window or (self.max_length, 0)
        try:
            return self._encoder.windows(self.prompt + text, longest, overlap)
        except UnicodeError as error:
            raise UnreadableSample(f"not text that can be encoded ({error})") from error


def read_token_inputs(tokenizer_json: str, max_length: int, prompt: str) -> TokenInputs:
    """Inputs of a tokenizer that was written as ``tokenizer.json``.

    Raises
    ------
    ConfigError
        If the library of tokenizers is not installed.
    """
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise ConfigError(
            "expected the library tokenizers, found it not installed; pip install 'embedpipe[text]'"
        ) from error
    return TokenInputs(FastEncoder(tokenizers.Tokenizer.from_str(tokenizer_json)), max_length, prompt=prompt)
