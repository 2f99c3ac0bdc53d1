"""Looking at, and changing, hidden states by name during the one forward pass.

Names follow TransformerLens where it has one: `embed`, `final`, and in block 3 `block.3.` followed by

| name | shape | what |
| --- | --- | --- |
| `resid_pre`, `resid_mid`, `resid_post` | B T W | the residual stream before attention, between, and after the MLP |
| `attn_in`, `mlp_in` | B T W | what attention and the MLP read: normalised, and after Canon-A and -C |
| `q`, `k`, `v` | B T H D | queries, keys and values before positions turn them |
| `rot_q`, `rot_k` | B T H D | queries and keys as they are compared |
| `attn_scores`, `pattern` | B H T S | before and after the softmax |
| `z` | B T H D | values mixed by the pattern |
| `head_out` | B T H W | what each head adds to the residual stream; their sum and the bias are `attn_out` |
| `attn_out`, `mlp_out` | B T W | what attention and the MLP add |
| `mlp_pre`, `mlp_post` | B T M | hidden units before the activation, and as the second layer reads them |

Shape legend: B batch, T queries, S keys, H heads (of `k` and `v`: their groups), D head width, W model width, M hidden
units. Queries and keys exist only where attention compares them, hidden units only in plain MLPs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from physlm.models.config import TransformerConfig

Edit = Callable[[Tensor], Tensor]


class Capture:
    """Collects hidden states by name during a forward pass; anything not asked for costs nothing.

    Example:
        >>> from physlm import Transformer, TransformerConfig
        >>> import torch
        >>> model = Transformer(TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32), seed=0)
        >>> capture = Capture(["block.1.pattern"], edits={"block.0.mlp_out": torch.zeros_like})
        >>> _ = model(torch.zeros(3, 16, dtype=torch.long), capture=capture)
        >>> capture.states["block.1.pattern"].shape
        torch.Size([3, 2, 16, 16])

    Args:
        names: states to keep; see the module for all names. They are found in `states` afterwards.
        edits: functions by name, each given a state and returning what takes its place, of the same shape. What is
            kept is the state after its edit.
    """

    def __init__(self, names: Iterable[str] = (), *, edits: Mapping[str, Edit] | None = None) -> None:
        self.names = frozenset([names] if isinstance(names, str) else names)
        self.edits = dict(edits or {})
        self.states: dict[str, Tensor] = {}
        self._touched = self.names | self.edits.keys()

    def __call__(self, name: str, state: Tensor) -> Tensor:
        """Pass `state` on, edited and kept if its name was asked for."""
        if name not in self._touched:
            return state
        if name in self.edits:
            edited = self.edits[name](state)
            if edited.shape != state.shape:
                raise ValueError(
                    f"an edit must keep the shape: {name} is {tuple(state.shape)}, got {tuple(edited.shape)}"
                )
            state = edited
        if name in self.names:
            self.states[name] = state
        return state

    def wants(self, *names: str) -> bool:
        """Whether any of these states is kept or edited."""
        return not self._touched.isdisjoint(names)

    def check(self, config: TransformerConfig) -> None:
        """Refuse names that the model does not have.

        Raises:
            ValueError: naming one of them, and what is close to it.
        """
        if not self._touched:
            return
        known = tap_names(config)
        for name in sorted(self._touched):
            if name not in known:
                close = get_close_matches(name, known, n=3, cutoff=0) or list(known)[:3]
                raise ValueError(f"this model has no hidden state {name!r}; close names are {', '.join(close)}")


def tap_names(config: TransformerConfig) -> tuple[str, ...]:
    """Names of all hidden states of a model, in the order in which they are made."""
    content = not config.position.replaces_content
    mlp = bool(config.mlp_ratio)
    hidden = mlp and config.experts is None
    in_block = [
        *("resid_pre", "attn_in"),
        *(("q", "k", "v", "rot_q", "rot_k") if content else ("v",)),
        *("attn_scores", "pattern", "z", "head_out", "attn_out", "resid_mid"),
        *(("mlp_in",) if mlp else ()),
        *(("mlp_pre", "mlp_post") if hidden else ()),
        *(("mlp_out",) if mlp else ()),
        "resid_post",
    ]
    blocks = (f"block.{layer}.{name}" for layer in range(config.layers) for name in in_block)
    return ("embed", *blocks, "final")
