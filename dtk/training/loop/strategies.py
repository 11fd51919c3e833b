"""How ranks share a module: each has all of it, or a part, and their gradients are summed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dtk.training.loop.buckets import fix_buckets
from dtk.training.loop.sync import SyncClock
from dtk.training.loop.task import Task
from dtk.training.loop.tasks import NetworkTask

__all__ = ["Alone", "Replicated", "Sharded", "Stepping", "Strategy", "Summed", "gathered", "share"]

BUCKET_NBYTES: Final = 25 * 2**20


class Stepping(nn.Module):
    """A module whose forward is a step: what wraps a module sees its forward alone.

    Parameters
    ----------
    task : Task
        What is trained.
    autocast : callable
        Makes the context in which it computes.
    """

    def __init__(self, task: Task, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.task = task
        self._autocast = autocast

    def forward(self, batch: dict[str, Tensor], how: Literal["step", "validate"] = "step") -> Any:
        """Compute.

        Parameters
        ----------
        batch : dict of str to Tensor
            As the loader gives it.
        how : {"step", "validate"}
            What of the task.

        Returns
        -------
        object
            What the task returns.
        """
        if not isinstance(self.task, NetworkTask) and not batch["weight"].any():
            # all of it is padding: a task may take a mean, which must be a number to count nothing
            batch = batch | {"weight": torch.ones_like(batch["weight"])}
        with self._autocast():
            return getattr(self.task, how)(batch)


class Alone:
    """One rank: there is nothing to share.

    Parameters
    ----------
    stepping : Stepping
        The module.
    """

    num_ranks = 1

    def __init__(self, stepping: Stepping) -> None:
        self.stepping: nn.Module = stepping
        self.step: Callable[..., Any] = stepping
        """Computes a step whose gradients come to all ranks."""
        self.sync = SyncClock()

    def no_sync(self) -> AbstractContextManager[Any]:
        """Keep gradients on the rank, where more are to be added.

        Returns
        -------
        context manager
            For forward and backward.
        """
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of all parameters, summed over ranks.

        Parameters
        ----------
        loss : Tensor
            A scalar.
        """
        if self.num_ranks == 1 or not loss.requires_grad:  # torch says what is wrong with the latter
            loss.backward()
        else:
            self.sync.backward(loss)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients that backward has left on the ranks.

        Parameters
        ----------
        parameters : sequence of nn.Parameter
            Whose.
        """


class Replicated(Alone):
    """Each rank has the whole module; gradients are averaged while backward still runs.

    Parameters
    ----------
    stepping : Stepping
        The module.
    num_ranks : int
        How many there are.
    is_partial : bool
        Whether steps leave parameters without a gradient.
    """

    def __init__(self, stepping: Stepping, num_ranks: int, *, is_partial: bool) -> None:
        super().__init__(stepping)
        self.num_ranks = num_ranks
        self._replica = DistributedDataParallel(
            stepping, find_unused_parameters=is_partial, gradient_as_bucket_view=True
        )
        if not is_partial:
            fix_buckets(self._replica)
        self.step = self._replica

    def no_sync(self) -> AbstractContextManager[Any]:
        """See `Alone`."""
        return self._replica.no_sync()


class Sharded(Alone):
    """Each rank has a part of every weight, and gathers the whole of a layer where it is needed (FSDP2).

    Parameters
    ----------
    stepping : Stepping
        The module; its parameters are replaced by parts of them.
    num_ranks : int
        How many there are.
    device : torch.device
        Where it trains.
    """

    def __init__(self, stepping: Stepping, num_ranks: int, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(stepping)
        self.num_ranks = num_ranks
        mesh = init_device_mesh(device.type, (num_ranks,))
        for layer in _layers(stepping.task):
            fully_shard(layer, mesh=mesh)
        self._sharded: Any = fully_shard(stepping, mesh=mesh)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """See `Alone`."""
        self._sharded.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._sharded.set_requires_gradient_sync(True)


class Summed(Alone):
    """Each rank has the whole module; gradients are averaged after each backward, for steps that have several.

    Parameters
    ----------
    stepping : Stepping
        The module.
    num_ranks : int
        How many there are.
    """

    def __init__(self, stepping: Stepping, num_ranks: int) -> None:
        super().__init__(stepping)
        self.num_ranks = num_ranks
        for tensor in [*stepping.parameters(), *stepping.buffers()]:
            distributed.broadcast(tensor.detach(), 0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """See `Alone`."""
        # some at a time; what has a gradient on no rank gets none
        some: list[nn.Parameter] = []
        nbytes = 0
        for parameter in parameters:
            some.append(parameter)
            nbytes += parameter.numel() * parameter.element_size()
            if nbytes >= BUCKET_NBYTES:
                self._average(some)
                some, nbytes = [], 0
        if some:
            self._average(some)

    def _average(self, parameters: list[nn.Parameter]) -> None:
        has = torch.tensor([one.grad is not None for one in parameters], dtype=torch.float32)
        device, dtype = parameters[0].device, parameters[0].dtype
        parts = [torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in parameters]
        flat = torch.cat([*(part.to(dtype) for part in parts), has.to(device, dtype)])
        with self.sync.waiting():
            distributed.all_reduce(flat)
        flat /= self.num_ranks
        *summed, anywhere = flat.split([*(one.numel() for one in parameters), len(parameters)])
        for parameter, gradient, share in zip(parameters, summed, anywhere.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if share > 0 else None


Strategy = Alone | Replicated | Sharded | Summed


def share(
    stepping: Stepping,
    num_ranks: int,
    device: torch.device,
    name: Literal["ddp", "fsdp"],
    is_partial: Callable[[Stepping], bool],
) -> Strategy:
    """Spread a module over ranks; all of them call it.

    Parameters
    ----------
    stepping : Stepping
        On its device.
    num_ranks : int
        How many there are.
    device : torch.device
        Where it trains.
    name : {"ddp", "fsdp"}
        How.
    is_partial : callable
        Tells whether steps leave parameters without a gradient.

    Returns
    -------
    Strategy
        How it is done.
    """
    if num_ranks == 1:
        return Alone(stepping)
    if name == "fsdp":
        return Sharded(stepping, num_ranks, device)
    if stepping.task.yields:
        return Summed(stepping, num_ranks)
    return Replicated(stepping, num_ranks, is_partial=is_partial(stepping))


def gathered(named: Mapping[str, Tensor], rank: int, *, copies: bool = False) -> dict[str, Tensor]:
    """Bring home what ranks hold, maybe in parts, one tensor at a time; all ranks call it.

    Parameters
    ----------
    named : mapping of str to Tensor
        The same names on all ranks.
    rank : int
        This rank; rank 0 gets them.
    copies : bool
        Whether they shall not change with the module.

    Returns
    -------
    dict of str to Tensor
        Whole, on the CPU; nothing on other ranks.
    """
    found = {}
    for name, value in named.items():
        held = value.detach()
        whole = held.full_tensor() if isinstance(held, DTensor) else held
        if rank == 0:
            found[name] = whole.to("cpu", copy=copies)
    return found


def _layers(module: nn.Module) -> list[nn.Module]:
    """List the modules that are gathered as one: those in lists and sequences, which are layers or blocks of them."""
    found = {id(layer): layer for layer in _listed(module) if next(layer.parameters(), None) is not None}
    holders: dict[int, int] = {}
    for layer in found.values():
        for parameter in layer.parameters():
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    # what several layers share is gathered with the whole
    return [one for one in found.values() if all(holders[id(parameter)] == 1 for parameter in one.parameters())]


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            for item in child.children():
                yield from _listed(item) if isinstance(item, nn.ModuleList | nn.ModuleDict) else [item]
        elif isinstance(child, nn.Sequential):
            yield from child
        else:
            yield from _listed(child)
