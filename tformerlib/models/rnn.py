"""Recurrent encoder-decoders without and with attention (Cho et al. 2014, Bahdanau et al. 2015, Luong et al. 2015).

Shape letters: B batch, N source tokens, M target tokens, E width of embeddings, S width of decoder states,
C width of memory cells (what the encoder keeps of one source token), F width of the features before the output.

Differs from the papers: torch's GRU applies the reset gate after the matrix product, theirs before it, and its update
gate is one minus theirs. All affine maps have a bias. Luong's models stack four LSTMs where this has one GRU, and
Luong's local attention is left out. Weights start as torch starts them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..attention import attention, record
from ..registry import register

State = tuple[Tensor, ...]


class Memory(NamedTuple):
    """What the encoder hands to the decoder."""

    cells: Tensor  # (B, N, C), one for each source token
    keys: Tensor  # (B, N, A), the cells as the attention scores them: projected once for all steps
    mask: Tensor  # (B, 1, N), True at real tokens
    whole: Tensor  # (B, C), the fixed vector: the last state of each direction
    last: Tensor  # (B, S), the last state of the last direction: with two, the one that ends at the first token


class Additive(nn.Module):
    """score = v . tanh(W q + U k)  (Bahdanau et al. 2015, app. A.1.2; `concat` of Luong et al. 2015).

    Takes queries (B, M, S) and a memory; returns contexts (B, M, C), the cells weighted by the softmax of the scores.
    """

    def __init__(self, query: int, cell: int, hidden: int | None = None) -> None:
        super().__init__()
        self.query, self.keys = nn.Linear(query, hidden or query, bias=False), nn.Linear(cell, hidden or query)
        self.v = nn.Linear(hidden or query, 1, bias=False)

    def forward(self, query: Tensor, memory: Memory) -> Tensor:
        hidden = torch.tanh(self.query(query)[:, :, None] + memory.keys[:, None])  # (B, M, N, A)
        scores = self.v(hidden).squeeze(-1).masked_fill(~memory.mask, float("-inf"))
        return record(scores.softmax(-1)[:, None])[:, 0] @ memory.cells


class Dot(nn.Module):
    """score = q . k  (Luong et al. 2015, eq. 8). Queries (B, M, S) to contexts (B, M, C); S must equal C."""

    def __init__(self, query: int, cell: int) -> None:
        super().__init__()
        if query != cell:
            raise ValueError(f"Dot needs states as wide as memory cells, not {query} and {cell}; General does not")
        self.keys: nn.Module = nn.Identity()

    def forward(self, query: Tensor, memory: Memory) -> Tensor:
        q, k, v = query[:, None], memory.keys[:, None], memory.cells[:, None]  # one head
        return attention(q, k, v, mask=memory.mask[:, None], scale=1.0)[:, 0]


class General(Dot):
    """score = q . W k  (Luong et al. 2015, eq. 8). Queries (B, M, S) to contexts (B, M, C)."""

    def __init__(self, query: int, cell: int) -> None:
        super().__init__(query, query)
        self.keys = nn.Linear(cell, query, bias=False)


class Bahdanau(nn.Module):
    """Attends with the state *before* the step: c_i = attention(s_{i-1}), s_i = GRU([y_{i-1}; c_i], s_{i-1}).

    The output sees s_{i-1} too, beside y_{i-1} and c_i, through a layer of maxout units (Bahdanau et al. 2015,
    app. A.2.2). Without attention, every c_i is the fixed vector.

    Args:
        embed, hidden, cell: widths E, S and C.  maxout: number of maxout units, F; half of S by default.
        attention: makes the attention as attention(S, C).
    """

    def __init__(
        self,
        embed: int,
        hidden: int,
        cell: int,
        attention: Callable[[int, int], nn.Module] | None,
        maxout: int | None = None,
    ) -> None:
        super().__init__()
        self.features = maxout or hidden // 2
        self.first = nn.Linear(hidden, hidden)
        self.attention = attention(hidden, cell) if attention else None
        self.gru = nn.GRU(embed + cell, hidden, batch_first=True)
        self.deep = nn.Linear(hidden + embed + cell, 2 * self.features)

    def start(self, memory: Memory) -> State:
        """(s_0,), from the backward encoder's state at the first source token."""
        return (torch.tanh(self.first(memory.last)),)

    def forward(self, y: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Embedded targets (B, M, E) and the state before them to features (B, M, F) and the state after them."""
        (s,) = state
        if self.attention is None:  # nothing depends on the state: the whole sequence at once
            contexts = memory.whole[:, None].expand(-1, y.shape[1], -1)
            states, _ = self.gru(torch.cat([y, contexts], -1), s[None])
            before, s = torch.cat([s[:, None], states[:, :-1]], 1), states[:, -1]
        else:
            steps = []
            for token in y.unbind(1):
                context = self.attention(s[:, None], memory)[:, 0]
                steps.append((s, context))
                s = torch.gru_cell(torch.cat([token, context], -1), s, *self.gru.all_weights[0])
            before, contexts = (torch.stack(each, 1) for each in zip(*steps, strict=True))
        return self.deep(torch.cat([before, y, contexts], -1)).unflatten(-1, (-1, 2)).amax(-1), (s,)


class Luong(nn.Module):
    """Attends with the state *after* the step: h_t = GRU(y_{t-1}, h_{t-1}), c_t = attention(h_t).

    The output sees the attentional vector tanh(W [c_t; h_t]) (Luong et al. 2015, eq. 5). Here the states do not depend
    on it, so the steps of a sequence are taken at once.

    Args:
        embed, hidden, cell: widths E, S = F and C.  fed: width of what the GRU sees beside the embedding.
        attention: makes the attention as attention(S, C).
    """

    def __init__(
        self, embed: int, hidden: int, cell: int, attention: Callable[[int, int], nn.Module] | None, fed: int = 0
    ) -> None:
        super().__init__()
        if attention is None:
            raise ValueError("attention=None: Luong's decoder has no output without attention; Bahdanau's takes None")
        self.features = hidden
        self.attention = attention(hidden, cell)
        self.gru = nn.GRU(embed + fed, hidden, batch_first=True)
        self.combine = nn.Linear(cell + hidden, hidden)

    def start(self, memory: Memory) -> State:
        """The encoder's last state."""
        return (memory.last,)

    def attend(self, states: Tensor, memory: Memory) -> Tensor:
        """States (B, M, S) to attentional vectors (B, M, S)."""
        return torch.tanh(self.combine(torch.cat([self.attention(states, memory), states], -1)))

    def forward(self, y: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Embedded targets (B, M, E) and the state before them to features (B, M, F) and the state after them."""
        states, _ = self.gru(y, state[0][None])
        return self.attend(states, memory), (states[:, -1],)


class InputFeeding(Luong):
    """Luong's decoder whose GRU sees the last attentional vector beside the embedding (Luong et al. 2015, sec. 3.3)."""

    def __init__(self, embed: int, hidden: int, cell: int, attention: Callable[[int, int], nn.Module] | None) -> None:
        super().__init__(embed, hidden, cell, attention, fed=hidden)

    def start(self, memory: Memory) -> State:
        """The encoder's last state, and zeros for the vector that is fed first."""
        return memory.last, torch.zeros_like(memory.last)

    def forward(self, y: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        s, fed = state
        out = []
        for token in y.unbind(1):
            s = torch.gru_cell(torch.cat([token, fed], -1), s, *self.gru.all_weights[0])
            fed = self.attend(s[:, None], memory)[:, 0]
            out.append(fed)
        return torch.stack(out, 1), (s, fed)


class RNNEncoderDecoder(nn.Module):
    """Logits of each next target token, given the source and the targets so far.

    `tformerlib.decoding.search` translates with it.

    `record_attention` sees the alignments: (B, 1, M, N) at once from Luong, M times (B, 1, 1, N) from the others.

    Args:
        source_vocab, target_vocab: numbers of ids.
        embed: width E.  hidden: width S of the decoder's states and of each direction of the encoder's.
        attention: Additive, Dot, General or another that is made as attention(S, C); None keeps the fixed vector.
            partial(Additive, hidden=...) gives its hidden layer a width of its own.
        decoder: Bahdanau, Luong or InputFeeding; partial(Bahdanau, maxout=...) says how many maxout units.
        bidirectional: the encoder also reads from the end, so that C is 2 S; otherwise C is S.
        dropout: on embeddings and on the features before the output layer.
        pad: the id that fills short rows up.
    """

    def __init__(
        self,
        *,
        source_vocab: int = 30000,
        target_vocab: int = 30000,
        embed: int = 620,
        hidden: int = 1000,
        attention: Callable[[int, int], nn.Module] | None = Additive,
        decoder: Callable[..., Any] = Bahdanau,
        bidirectional: bool = True,
        dropout: float = 0.0,
        pad: int = 0,
    ) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab, self.dropout, self.pad = source_vocab, target_vocab, dropout, pad
        self.source, self.target = nn.Embedding(source_vocab, embed), nn.Embedding(target_vocab, embed)
        self.encoder = nn.GRU(embed, hidden, batch_first=True, bidirectional=bidirectional)
        self.decoder = decoder(embed, hidden, hidden * (1 + bidirectional), attention)
        self.output = nn.Linear(self.decoder.features, target_vocab)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Ids (B, N) and (B, M), padded at the end, to logits (B, M, V); row m sees targets 0 .. m."""
        memory = self.encode(source)
        return self.decode(target, self.decoder.start(memory), memory)[0]

    def encode(self, source: Tensor) -> Memory:
        """Source ids (B, N), padded at the end, to what the decoder needs of them."""
        real = source != self.pad
        x = F.dropout(self.source(source), self.dropout, self.training)
        packed = pack_padded_sequence(x, real.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)  # packed, so that both directions skip the padding
        cells, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        keys = self.decoder.attention.keys(cells) if self.decoder.attention is not None else cells
        return Memory(cells, keys, real[:, None], last.transpose(0, 1).flatten(1), last[-1])

    def decode(self, target: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Target ids (B, M) and the state before them to logits (B, M, V) and the state after them."""
        y = F.dropout(self.target(target), self.dropout, self.training)
        features, state = self.decoder(y, state, memory)
        return self.output(F.dropout(features, self.dropout, self.training)), state

    def start(self, source: Tensor, capacity: int) -> "Decoding":
        """A decoding of source (B, N); a recurrent state has room for any number of target tokens."""
        return Decoding(self, source)


class Decoding:
    """A decoding under way: the memory of the source, and the decoder's state."""

    def __init__(self, model: RNNEncoderDecoder, source: Tensor) -> None:
        self.model, self.memory = model, model.encode(source)
        self.state = model.decoder.start(self.memory)

    def step(self, ids: Tensor) -> Tensor:
        """The next target ids (B,) to the logits (B, V) of those after them."""
        logits, self.state = self.model.decode(ids[:, None], self.state, self.memory)
        return logits[:, 0]

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on from the old row rows[i]; rows may repeat or be left out."""
        self.memory = Memory(*(tensor[rows] for tensor in self.memory))
        self.state = tuple(tensor[rows] for tensor in self.state)


@register
def rnnsearch(**overrides: Any) -> RNNEncoderDecoder:
    """RNNsearch, which attends: 80.45 M parameters, 80.40 M without biases (Bahdanau et al. 2015, app. A.2)."""
    return RNNEncoderDecoder(**overrides)


@register
def rnnencdec(**overrides: Any) -> RNNEncoderDecoder:
    """RNNencdec, which keeps one vector: 68.58 M parameters, 68.54 M without (Bahdanau et al. 2015, sec. 4.2)."""
    return RNNEncoderDecoder(**{"attention": None, "bidirectional": False} | overrides)


def _luong(**overrides: Any) -> RNNEncoderDecoder:
    sizes = {"source_vocab": 50000, "target_vocab": 50000, "embed": 1000, "hidden": 1000, "dropout": 0.2}
    model: dict[str, Any] = {"decoder": InputFeeding, "bidirectional": False}
    return RNNEncoderDecoder(**sizes | model | overrides)


@register
def luong_dot(**overrides: Any) -> RNNEncoderDecoder:
    """167.1 M parameters: attention by dot products, with input feeding (Luong et al. 2015, eq. 8)."""
    return _luong(**{"attention": Dot} | overrides)


@register
def luong_general(**overrides: Any) -> RNNEncoderDecoder:
    """168.1 M parameters: attention by a bilinear form, with input feeding (Luong et al. 2015, eq. 8)."""
    return _luong(**{"attention": General} | overrides)


@register
def luong_concat(**overrides: Any) -> RNNEncoderDecoder:
    """169.1 M parameters: attention by a small network, with input feeding (Luong et al. 2015, eq. 8)."""
    return _luong(**{"attention": Additive} | overrides)
